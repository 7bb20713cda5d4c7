//! `/v1/completions`: texts that are continued as they are.

use router_openai::{CompletionPrompt, CompletionRequest, CompletionWriter};

use super::sessions::{Sessions, head};
use super::{Arrived, Reply};
use crate::clock::unix_seconds;
use crate::model::Prompt;
use crate::serve::Problem;
use crate::serve::routes::Shared;

pub(super) async fn completion(shared: &Shared, arrived: Arrived) -> Result<Reply, Problem> {
    let request = CompletionRequest::parse(&arrived.body)?;
    let Arrived { id, at, tenant, bill, body, room } = arrived;
    drop(body);
    let generation = &request.generation;
    let served = shared.desk.catalogue().find(generation.model.as_ref())?;
    served.check(&tenant)?;
    let now = unix_seconds();
    let prompt = |prompt: &CompletionPrompt| match prompt {
        CompletionPrompt::Text(text) => Prompt::Text(text.clone()),
        CompletionPrompt::Ids(ids) => Prompt::TokenIds(ids.clone()),
    };
    let prompts: Vec<Prompt> = request.prompts.iter().map(prompt).collect();
    let encoding = shared.desk.encoders().run(&served.model, &tenant, room, move |model| {
        prompts.iter().map(|prompt| model.encode(prompt, now)).collect::<Result<Vec<_>, _>>()
    });
    let prompts = encoding.await?;
    let (grammar, markers) = (None, Vec::new());
    let session =
        Sessions { shared, generation, tenant: &tenant, bill: &bill, id: &id.told, at, grammar, markers };
    let answers = session.begin(&prompts, generation.n).await?;
    let head = head(format!("cmpl-{}", id.drawn), now, generation, &served, &answers[0]);
    let writer = Box::new(CompletionWriter::new(&request, &head));
    Ok(Reply::new(answers, writer, &served, generation))
}
