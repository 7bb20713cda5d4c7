//! `/tokenize`, `/detokenize`, and what no model here offers.

use router_openai::{DetokenizeRequest, EmbeddingRequest, TokenizeInput, TokenizeRequest};
use serde_json::json;

use super::chat::conversation;
use super::{Arrived, Reply};
use crate::clock::unix_seconds;
use crate::model::PromptError;
use crate::serve::Problem;
use crate::serve::routes::Shared;

pub(super) async fn tokenize(shared: &Shared, arrived: Arrived) -> Result<Reply, Problem> {
    let request = TokenizeRequest::parse(&arrived.body)?;
    let served = shared.desk.catalogue().find(request.model.as_ref())?;
    let (now, template) = (unix_seconds(), served.model.chat_template().map(str::to_owned));
    let input = request.input;
    let work = move |model: &crate::model::Model| match input {
        TokenizeInput::Text { text, special } => model.tokens(&text, special),
        TokenizeInput::Chat(chat) => {
            let conversation = conversation(&chat, template.as_deref());
            model.encode_conversation(&conversation, now).map(|(_, ids)| ids)
        }
    };
    let ids = shared.desk.encoders().run(&served.model, &arrived.tenant, arrived.room, work).await?;
    let mut object = json!({"count": ids.len(), "max_model_len": served.model.context(), "tokens": ids});
    if request.token_texts {
        let content = |&id: &u32| served.model.tokenizer().and_then(|tokenizer| tokenizer.token_content(id));
        object["token_strs"] = ids.iter().map(content).collect();
    }
    Ok(Reply::Object(object.to_string().into_bytes()))
}

pub(super) async fn detokenize(shared: &Shared, arrived: Arrived) -> Result<Reply, Problem> {
    let request = DetokenizeRequest::parse(&arrived.body)?;
    let served = shared.desk.catalogue().find(request.model.as_ref())?;
    let work = move |model: &crate::model::Model| {
        let tokenizer = model.tokenizer().ok_or_else(|| PromptError::NoTokenizer(model.name().to_owned()))?;
        Ok(tokenizer.decode(&request.tokens, false)?)
    };
    let text = shared.desk.encoders().run(&served.model, &arrived.tenant, arrived.room, work).await?;
    Ok(Reply::Object(json!({"prompt": text}).to_string().into_bytes()))
}

pub(super) fn embeddings(arrived: &Arrived) -> Result<Reply, Problem> {
    Err(EmbeddingRequest::parse(&arrived.body)?.refusal().into())
}
