//! `/v1/chat/completions`: a conversation into a prompt, and as many sessions as choices.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use proto::answer::{AnswerTerms, Grammar};
use proto_text::ChatMessage;
use router_openai::{
    AnswerWriter, ChatRequest, ChatStream, ChatWhole, Constraint, Delivery, Generation, Head, Reading,
    template_shows_tools, tool_prompt,
};
use router_openai::{ApiError, ErrorCode};
use router_plan::admission::Tenant;
use serde_json::Value;
use tokio::task::JoinSet;

use super::choices::Choices;
use super::{Arrived, Reply};
use crate::clock::unix_seconds;
use crate::model::{Conversation, Prompt};
use crate::serve::Asked;
use crate::serve::answer::Answer;
use crate::serve::catalogue::Served;
use crate::serve::desk::with_drawn_seed;
use crate::serve::routes::Shared;

/// Tokens of an answer if the request does not say. KV is reserved for all of them on every stage, so that the whole
/// context for each would leave room for few.
const USUAL_MAX_TOKENS: u32 = 4096;

pub(super) async fn answer(shared: &Shared, arrived: Arrived) -> Result<Reply, ApiError> {
    let Arrived { id, at, tenant, bill, body, room } = arrived;
    let request = ChatRequest::parse(&body)?;
    drop(body);
    let tenant = tenant.unwrap_or_default();
    let served = shared.desk.catalogue().find(request.generation.model.as_ref())?;
    served.check(&tenant)?;
    let conversation = conversation(&request, served.model.chat_template());
    let now = unix_seconds();
    let encoding = shared
        .desk
        .encoders()
        .run(&served.model, &tenant, room, move |model| model.encode_conversation(&conversation, now));
    let (text, ids) = encoding.await?;
    let template = served.model.chat_template().unwrap_or_default();
    let reading = Reading::new(&request.chat, &request.constraint, template, &text);
    let markers: Vec<&'static str> = reading.markers().collect();
    let asked = |choice: u32| asked(&request, choice, &ids, &tenant, &markers);
    let answers = begin_all(shared, request.generation.n, asked, &bill, &id, at).await?;
    let head = head(&format!("chatcmpl-{id}"), now, &request.generation, &served, &answers[0]);
    let writer: Box<dyn AnswerWriter> = match request.generation.delivery {
        Delivery::Stream { .. } => Box::new(ChatStream::new(&request, &head, &reading)),
        Delivery::Whole => Box::new(ChatWhole::new(&request, &head, &reading)),
    };
    let headers = headers(&answers);
    let stream = request.generation.delivery != Delivery::Whole;
    let tokenizer = served.model.tokenizer().cloned();
    let choices = Choices::new(answers, writer, tokenizer, request.generation.logprobs.is_some());
    Ok(Reply::Answer { choices, stream, headers })
}

/// What the model's template is told. Tools that it would not show stand in the system's turn.
fn conversation(request: &ChatRequest, template: Option<&str>) -> Conversation {
    let mut conversation = Conversation {
        messages: request.chat.messages.clone(),
        tools: request.chat.tools.definitions(),
        variables: request.chat.variables.clone(),
        add_generation_prompt: request.chat.add_generation_prompt,
    };
    if template.is_some_and(template_shows_tools) {
        return conversation;
    }
    conversation.messages.iter_mut().for_each(as_text);
    if conversation.tools.is_empty() {
        return conversation;
    }
    let shown = tool_prompt(&std::mem::take(&mut conversation.tools));
    match conversation.messages.first_mut().filter(|message| message.role == "system") {
        Some(system) => {
            let before = system.content.take().unwrap_or_default();
            system.content = Some(format!("{before}\n\n{shown}"));
        }
        None => conversation.messages.insert(0, ChatMessage::new("system", shown)),
    }
    conversation
}

/// Calls and their results as text, in the words of [`tool_prompt`], for a template that knows neither.
fn as_text(message: &mut ChatMessage) {
    for call in std::mem::take(&mut message.tool_calls) {
        let content = message.content.get_or_insert_default();
        if !content.is_empty() {
            content.push('\n');
        }
        let name = Value::from(call.name);
        // Into a string: this can't fail.
        let _ = write!(
            content,
            "<tool_call>\n{{\"name\": {name}, \"arguments\": {}}}\n</tool_call>",
            call.arguments
        );
    }
    if message.role == "tool" {
        let result = message.content.take().unwrap_or_default();
        "user".clone_into(&mut message.role);
        message.content = Some(format!("<tool_response>\n{result}\n</tool_response>"));
    }
    message.content.get_or_insert_default();
}

fn asked(
    request: &ChatRequest,
    choice: u32,
    ids: &[u32],
    tenant: &Tenant,
    markers: &[&'static str],
) -> Result<Asked, ApiError> {
    let generation = &request.generation;
    let grammar = match &request.constraint {
        Constraint::None => None,
        constraint => constraint.schema().map(|schema| Grammar::JsonSchema(schema.to_string())),
    };
    let mut sampling = generation.sampling_of(choice);
    if generation.draw_seed {
        sampling = with_drawn_seed(sampling)?;
    }
    Ok(Asked {
        model: generation.model.clone(),
        class: generation.class,
        prompt: Prompt::TokenIds(ids.to_vec()),
        max_tokens: generation.max_tokens.unwrap_or(USUAL_MAX_TOKENS),
        sampling,
        draw_seed: false,
        stop: generation.stop.clone(),
        stream: generation.delivery != Delivery::Whole,
        tenant: tenant.clone(),
        priority: generation.priority,
        deadline: generation.deadline,
        answer: AnswerTerms { top_logprobs: generation.logprobs.unwrap_or(0), grammar },
        markers: markers.to_vec(),
    })
}

/// Brings every choice to its first token, all at once; one that can't be had is the end of all.
async fn begin_all(
    shared: &Shared,
    choices: u32,
    asked: impl Fn(u32) -> Result<Asked, ApiError>,
    bill: &Arc<crate::serve::bill::Bill>,
    id: &str,
    at: tokio::time::Instant,
) -> Result<Vec<Answer>, ApiError> {
    if choices == 1 {
        return Ok(vec![shared.desk.answer(asked(0)?, (), Arc::clone(bill), id.to_owned(), at).await?]);
    }
    // Dropped with the request, it gives up what is still on its way.
    let mut beginning = JoinSet::new();
    for choice in 0..choices {
        let (desk, bill, id, asked) =
            (Arc::clone(&shared.desk), Arc::clone(bill), id.to_owned(), asked(choice)?);
        beginning.spawn(async move { (choice, desk.answer(asked, (), bill, id, at).await) });
    }
    let mut answers: Vec<Option<Answer>> = (0..choices).map(|_| None).collect();
    while let Some(done) = beginning.join_next().await {
        let broke =
            |error| ApiError::new(ErrorCode::Internal, format_args!("begin a choice: {error}"), "try again");
        let (choice, answer) = done.map_err(broke)?;
        answers[choice as usize] = Some(answer?);
    }
    Ok(answers.into_iter().flatten().collect())
}

fn head(id: &str, created: u64, generation: &Generation, served: &Served, first: &Answer) -> Head {
    Head {
        id: id.to_owned(),
        created,
        model: generation.model.as_ref().map_or_else(|| served.model.name().to_owned(), ToString::to_string),
        system_fingerprint: format!("{}-{}", served.model.id(), first.about.route.class),
    }
}

/// Which sessions answer, and by which nodes.
fn headers(answers: &[Answer]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let sessions: Vec<&str> = answers.iter().map(|answer| &answer.about.session[..]).collect();
    let routes: Vec<String> = answers
        .iter()
        .map(|answer| {
            let hop = |stage: &router_plan::RouteStage| format!("{}[{}]", stage.node.short(), stage.span);
            answer.about.route.stages.iter().map(hop).collect::<Vec<_>>().join(">")
        })
        .collect();
    for (name, value) in [("layerlane-session", sessions.join(",")), ("layerlane-route", routes.join(","))] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"model":"m","messages":[
        {"role":"system","content":"Be kind."},{"role":"user","content":"Weather?"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",
            "function":{"name":"weather","arguments":"{\"city\": \"Rome\"}"}}]},
        {"role":"tool","tool_call_id":"c","content":"22"}],
        "tools":[{"type":"function","function":{"name":"weather"}}]}"#;

    #[test]
    fn a_template_that_knows_tools_gets_them_and_another_one_gets_text() {
        let request = ChatRequest::parse(BODY.as_bytes()).unwrap();
        let known = conversation(&request, Some("{% if tools %}{% endif %}"));
        assert_eq!((known.tools.len(), known.messages[2].content.as_deref()), (1, None));
        let unknown = conversation(&request, Some("{{ messages[0].content }}"));
        assert!(unknown.tools.is_empty());
        let content = |index: usize| unknown.messages[index].content.clone().unwrap();
        assert!(content(0).starts_with("Be kind.\n\n") && content(0).contains("weather"));
        let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
        assert_eq!((content(2), &unknown.messages[3].role[..]), (call.to_owned(), "user"));
        assert_eq!(content(3), "<tool_response>\n22\n</tool_response>");
    }
}
