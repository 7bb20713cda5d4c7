//! `/v1/chat/completions` and `/v1/responses`: a conversation into a prompt, and as many sessions as choices.

use std::fmt::Write as _;

use proto::answer::Grammar;
use proto_text::ChatMessage;
use router_openai::{
    AnswerWriter, Chat, ChatRequest, Constraint, Generation, Head, Reading, ResponsesRequest,
    ResponsesWriter, template_shows_tools, tool_prompt,
};
use serde_json::Value;

use super::sessions::{Sessions, head};
use super::{Arrived, Reply};
use crate::clock::unix_seconds;
use crate::model::Conversation;
use crate::serve::Problem;
use crate::serve::routes::Shared;

/// The answer to a chat.
pub(super) async fn completion(shared: &Shared, arrived: Arrived) -> Result<Reply, Problem> {
    let request = ChatRequest::parse(&arrived.body)?;
    let (generation, prefix) = (&request.generation, "chatcmpl-");
    let talk = Talk { generation, chat: &request.chat, constraint: &request.constraint, prefix };
    answer(shared, arrived, talk, |head, reading| request.writer(head, reading)).await
}

/// The same under another name, with typed items.
pub(super) async fn response(shared: &Shared, arrived: Arrived) -> Result<Reply, Problem> {
    let request = ResponsesRequest::parse(&arrived.body)?;
    let (generation, prefix) = (&request.generation, "resp_");
    let talk = Talk { generation, chat: &request.chat, constraint: &request.constraint, prefix };
    answer(shared, arrived, talk, |head, reading| Box::new(ResponsesWriter::new(&request, head, reading)))
        .await
}

/// What both endpoints ask for.
struct Talk<'a> {
    generation: &'a Generation,
    chat: &'a Chat,
    constraint: &'a Constraint,
    prefix: &'static str,
}

async fn answer(
    shared: &Shared,
    arrived: Arrived,
    talk: Talk<'_>,
    writer: impl FnOnce(&Head, &Reading) -> Box<dyn AnswerWriter>,
) -> Result<Reply, Problem> {
    let Talk { generation, chat, constraint, prefix } = talk;
    let Arrived { id, at, tenant, bill, body, room } = arrived;
    drop(body);
    let served = shared.desk.catalogue().find(generation.model.as_ref())?;
    served.check(&tenant)?;
    let conversation = conversation(chat, served.model.chat_template());
    let now = unix_seconds();
    let encoding = shared
        .desk
        .encoders()
        .run(&served.model, &tenant, room, move |model| model.encode_conversation(&conversation, now));
    let (text, ids) = encoding.await?;
    let template = served.model.chat_template().unwrap_or_default();
    let reading = Reading::new(chat, constraint, template, &text);
    let grammar = constraint.schema().map(|schema| Grammar::JsonSchema(schema.to_string()));
    let markers = reading.markers().collect();
    let session =
        Sessions { shared, generation, tenant: &tenant, bill: &bill, id: &id.told, at, grammar, markers };
    let answers = session.begin(&[ids], generation.n).await?;
    let head = head(format!("{prefix}{}", id.drawn), now, generation, &served, &answers[0]);
    let writer = writer(&head, &reading);
    Ok(Reply::new(answers, writer, &served, generation))
}

/// What the model's template is told. Tools that it would not show stand in the system's turn.
pub(super) fn conversation(chat: &Chat, template: Option<&str>) -> Conversation {
    let mut conversation = Conversation {
        messages: chat.messages.clone(),
        tools: chat.tools.definitions(),
        variables: chat.variables.clone(),
        add_generation_prompt: chat.add_generation_prompt,
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
        let known = conversation(&request.chat, Some("{% if tools %}{% endif %}"));
        assert_eq!((known.tools.len(), known.messages[2].content.as_deref()), (1, None));
        let unknown = conversation(&request.chat, Some("{{ messages[0].content }}"));
        assert!(unknown.tools.is_empty());
        let content = |index: usize| unknown.messages[index].content.clone().unwrap();
        assert!(content(0).starts_with("Be kind.\n\n") && content(0).contains("weather"));
        let call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
        assert_eq!((content(2), &unknown.messages[3].role[..]), (call.to_owned(), "user"));
        assert_eq!(content(3), "<tool_response>\n22\n</tool_response>");
    }
}
