//! The input of a response: a text, or items, which become the messages of a chat.
//!
//! Thoughts and calls are items of their own there; in a chat they belong to the assistant's message.

use proto_text::{ChatMessage, ToolCall};

use super::generation::MAX_FIELDS;
use super::messages::{MAX_ID_CHARS, MAX_MESSAGES, MAX_PARTS, OTHER_PARTS, PART_EXTRAS};
use super::tools::function_name;
use crate::error::{ApiError, ErrorCode, Quote};
use crate::read::{Json, Kind, Object};

/// The messages that `instructions` and `input` make.
pub(super) fn messages(body: &Object<'_, '_>) -> Result<Vec<ChatMessage>, ApiError> {
    let mut turns = Turns::default();
    if let Some(instructions) = body.read("instructions", |json| json.text())? {
        turns.messages.push(ChatMessage::new("system", instructions));
    }
    let input = body.need("input")?;
    match input.kind() {
        Kind::Text => turns.messages.push(ChatMessage::new("user", input.text()?)),
        Kind::List => {
            let list = input.list(MAX_MESSAGES)?;
            if list.len() == 0 {
                return Err(input.invalid("it is empty; at least one item is needed"));
            }
            for json in list.iter() {
                turns.item(json)?;
            }
        }
        _ => return Err(input.wrong_type("a string or a list of items")),
    }
    Ok(turns.messages)
}

#[derive(Default)]
struct Turns {
    messages: Vec<ChatMessage>,
    /// Thoughts whose message is still to come.
    thoughts: Option<String>,
}

impl Turns {
    fn item(&mut self, json: Json<'_, '_>) -> Result<(), ApiError> {
        let fields = json.object(MAX_FIELDS)?;
        let Some(kind) = fields.get("type") else { return self.message(&fields) };
        match &*kind.text()? {
            "message" => self.message(&fields),
            "function_call" => self.call(&fields),
            "function_call_output" => self.output(&fields),
            "reasoning" => self.reasoning(&fields),
            "item_reference" => {
                Err(kind.unsupported("no items are kept; send the item itself instead of a reference"))
            }
            other => Err(kind.unsupported(format_args!(
                "it is {}, but only `message`, `function_call`, `function_call_output` and `reasoning` are supported",
                Quote(other)
            ))),
        }
    }

    fn message(&mut self, fields: &Object<'_, '_>) -> Result<(), ApiError> {
        fields.only(&["type", "role", "content", "id", "status", "phase", "cache_control"])?;
        let role = fields.need("role")?.word(ROLES)?;
        let content = text(fields.need("content")?)?;
        let mut message = ChatMessage::new(role, content);
        if role == "assistant" {
            message.reasoning_content = self.thoughts.take();
        }
        self.messages.push(message);
        Ok(())
    }

    fn call(&mut self, fields: &Object<'_, '_>) -> Result<(), ApiError> {
        fields.only(&["type", "id", "call_id", "name", "arguments", "status", "namespace", "caller"])?;
        let call = ToolCall {
            id: fields.need("call_id")?.short_text(MAX_ID_CHARS)?,
            name: function_name(fields.need("name")?)?,
            arguments: fields.need("arguments")?.text()?.into_owned(),
        };
        match self.messages.last_mut() {
            // Calls of one answer are one message's.
            Some(message) if message.role == "assistant" && self.thoughts.is_none() => {
                message.tool_calls.push(call);
            }
            _ => self.messages.push(ChatMessage {
                role: "assistant".into(),
                tool_calls: vec![call],
                reasoning_content: self.thoughts.take(),
                ..ChatMessage::default()
            }),
        }
        Ok(())
    }

    fn output(&mut self, fields: &Object<'_, '_>) -> Result<(), ApiError> {
        fields.only(&["type", "id", "call_id", "output", "status", "caller"])?;
        self.messages.push(ChatMessage {
            role: "tool".into(),
            content: Some(text(fields.need("output")?)?),
            tool_call_id: Some(fields.need("call_id")?.short_text(MAX_ID_CHARS)?),
            ..ChatMessage::default()
        });
        Ok(())
    }

    fn reasoning(&mut self, fields: &Object<'_, '_>) -> Result<(), ApiError> {
        fields.only(&["type", "id", "summary", "content", "encrypted_content", "status"])?;
        if let Some(content) = fields.get("content") {
            self.thoughts = Some(text(content)?).filter(|text| !text.is_empty());
        }
        Ok(())
    }
}

/// Text, or a list of parts of text: these become lines.
fn text(json: Json<'_, '_>) -> Result<String, ApiError> {
    if json.kind() == Kind::Text {
        return json.text().map(Into::into);
    }
    if json.kind() != Kind::List {
        return Err(json.wrong_type("a string or a list of text parts"));
    }
    let mut lines = Vec::new();
    for json in json.list(MAX_PARTS)?.iter() {
        let fields = json.object(MAX_FIELDS)?;
        let kind = fields.need("type")?;
        let of = match &*kind.text()? {
            "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => "text",
            "refusal" => "refusal",
            other if OTHER_PARTS.contains(&other) => {
                let what = format_args!("parts of type {} are not supported; only text is", Quote(other));
                return Err(json.error(ErrorCode::UnsupportedContent, what));
            }
            other => {
                return Err(kind.invalid(format_args!("it is {}, but `input_text` is needed", Quote(other))));
            }
        };
        fields.only(&[&["type", of], PART_EXTRAS].concat())?;
        lines.push(fields.need(of)?.text()?.into_owned());
    }
    Ok(lines.join("\n"))
}

/// Templates know one word for instructions.
const ROLES: &[(&str, &str)] =
    &[("user", "user"), ("assistant", "assistant"), ("system", "system"), ("developer", "system")];
