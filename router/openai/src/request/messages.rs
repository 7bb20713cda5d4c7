//! The messages of a chat: roles, text parts, calls and their answers.

use std::borrow::Cow;

use proto_text::{ChatMessage, ToolCall};

use super::generation::MAX_FIELDS;
use super::tools::function_name;
use crate::error::{ApiError, ErrorCode, Quote};
use crate::read::{Json, Kind, Object};

/// Reads `messages`.
pub(super) fn messages(json: Json<'_, '_>) -> Result<Vec<ChatMessage>, ApiError> {
    let list = json.list(MAX_MESSAGES)?;
    if list.len() == 0 {
        return Err(json.invalid("it is empty; at least one message is needed"));
    }
    list.iter().map(message).collect()
}

fn message(json: Json<'_, '_>) -> Result<ChatMessage, ApiError> {
    let fields = json.object(MAX_FIELDS)?;
    match &*fields.need("role")?.text()? {
        // Templates know one word for both.
        "system" | "developer" => plain(&fields, "system"),
        "user" => plain(&fields, "user"),
        "assistant" => assistant(&fields),
        "tool" => {
            fields.only(&["role", "content", "tool_call_id", "name"])?;
            let id = fields.need("tool_call_id")?.short_text(MAX_ID_CHARS)?;
            Ok(ChatMessage {
                role: "tool".into(),
                content: Some(text(fields.need("content")?)?),
                name: name(&fields)?,
                tool_call_id: Some(id),
                ..ChatMessage::default()
            })
        }
        "function" => Err(fields
            .need("role")?
            .unsupported("the role `function` is no more; use `tool` with `tool_call_id`")),
        other => Err(fields.need("role")?.invalid(format_args!(
            "it is {}, but one of `system`, `developer`, `user`, `assistant`, `tool` is needed",
            Quote(other)
        ))),
    }
}

fn plain(fields: &Object<'_, '_>, role: &str) -> Result<ChatMessage, ApiError> {
    fields.only(&["role", "content", "name"])?;
    let content = text(fields.need("content")?)?;
    Ok(ChatMessage {
        role: role.into(),
        content: Some(content),
        name: name(fields)?,
        ..ChatMessage::default()
    })
}

/// As clients give it, or as they got it from here.
fn assistant(fields: &Object<'_, '_>) -> Result<ChatMessage, ApiError> {
    fields.only(ASSISTANT_FIELDS)?;
    for (gone, cure) in [("function_call", "use `tool_calls`"), ("audio", "leave it out: only text is taken")]
    {
        if let Some(json) = fields.get(gone) {
            return Err(
                json.error(ErrorCode::UnsupportedParameter, format_args!("it is not supported; {cure}"))
            );
        }
    }
    let tool_calls = match fields.get("tool_calls") {
        Some(json) => json.list(MAX_TOOL_CALLS)?.iter().map(tool_call).collect::<Result<Vec<_>, _>>()?,
        None => Vec::new(),
    };
    let content = fields.read("content", text)?;
    let refusal = fields.read("refusal", |json| json.text())?.map(Cow::into_owned);
    let content = content.or(refusal);
    if content.is_none() && tool_calls.is_empty() {
        fields.need("content")?;
    }
    let reasoning = fields.read("reasoning_content", |json| json.text())?;
    Ok(ChatMessage {
        role: "assistant".into(),
        content,
        name: name(fields)?,
        tool_calls,
        tool_call_id: None,
        reasoning_content: reasoning.map(Cow::into_owned),
    })
}

fn name(fields: &Object<'_, '_>) -> Result<Option<String>, ApiError> {
    fields.read("name", |json| json.short_text(MAX_NAME_CHARS))
}

/// A call that was made earlier.
fn tool_call(json: Json<'_, '_>) -> Result<ToolCall, ApiError> {
    let fields = json.object(MAX_FIELDS)?;
    // Collected from a stream, a call has its index.
    fields.only(&["id", "type", "function", "index"])?;
    let kind = fields.need("type")?;
    if kind.text()? != "function" {
        return Err(kind
            .unsupported(format_args!("it is {}, but only `function` is supported", Quote(&kind.text()?))));
    }
    let function = fields.need("function")?.object(MAX_FIELDS)?;
    function.only(&["name", "arguments"])?;
    Ok(ToolCall {
        id: fields.need("id")?.short_text(MAX_ID_CHARS)?,
        name: function_name(function.need("name")?)?,
        arguments: function.need("arguments")?.text()?.into_owned(),
    })
}

/// Text, or a list of parts of text: these become lines, as vLLM does.
pub(super) fn text(json: Json<'_, '_>) -> Result<String, ApiError> {
    match json.kind() {
        Kind::Text => json.text().map(Cow::into_owned),
        Kind::List => {
            let mut whole = String::new();
            for (at, json) in json.list(MAX_PARTS)?.iter().enumerate() {
                if at > 0 {
                    whole.push('\n');
                }
                whole.push_str(&part(json)?);
            }
            Ok(whole)
        }
        _ => Err(json.wrong_type("a string or a list of text parts")),
    }
}

fn part<'a>(json: Json<'a, '_>) -> Result<Cow<'a, str>, ApiError> {
    let fields = json.object(MAX_FIELDS)?;
    let kind = fields.need("type")?;
    let of = match &*kind.text()? {
        "text" => "text",
        "refusal" => "refusal",
        "image_url" | "input_audio" | "file" | "video_url" | "audio_url" | "image" | "audio" => {
            let what = format_args!("parts of type {} are not supported; only text is", Quote(&kind.text()?));
            return Err(json.error(ErrorCode::UnsupportedContent, what));
        }
        other => return Err(kind.invalid(format_args!("it is {}, but `text` is needed", Quote(other)))),
    };
    fields.only(&["type", of])?;
    fields.need(of)?.text()
}

/// What an assistant's message may hold; what is not read is `null` or empty in every answer from here.
const ASSISTANT_FIELDS: &[&str] = &[
    "role",
    "content",
    "name",
    "tool_calls",
    "refusal",
    "reasoning_content",
    "annotations",
    "audio",
    "function_call",
];

/// Turns of a conversation: a context of 131,072 positions holds no more of them than this.
pub(crate) const MAX_MESSAGES: usize = 16_384;
/// Parts of a message: each costs a line, and a template some ten positions around it.
pub(crate) const MAX_PARTS: usize = 1024;
/// Calls in one message, as many as there may be tools.
pub(crate) const MAX_TOOL_CALLS: usize = 128;
/// OpenAI's ids have some 40.
pub(crate) const MAX_ID_CHARS: usize = 128;
/// A speaker's name.
pub(crate) const MAX_NAME_CHARS: usize = 256;
