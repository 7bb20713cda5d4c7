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
            only(&fields, &["role", "content", "tool_call_id", "name"])?;
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
    only(fields, &["role", "content", "name"])?;
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
    only(fields, ASSISTANT_FIELDS)?;
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
    // Two names for one thing, by server; whoever sends both says it twice.
    let named = |name| fields.read(name, |json| json.text());
    let reasoning = named("reasoning_content")?.or(named("reasoning")?);
    Ok(ChatMessage {
        role: "assistant".into(),
        content,
        name: name(fields)?,
        tool_calls,
        tool_call_id: None,
        reasoning_content: reasoning.map(Cow::into_owned),
    })
}

/// Whether a message has only what its role has, what may stand anywhere, and what other roles have as `null`: clients write
/// whole objects out.
fn only(fields: &Object<'_, '_>, own: &[&str]) -> Result<(), ApiError> {
    for (name, value) in fields.iter() {
        if own.contains(&name) || ANYWHERE.contains(&name) {
            continue;
        }
        match OTHERS.iter().find(|(other, _)| *other == name) {
            Some(_) if value.kind() == Kind::Null => {}
            Some((_, cure)) => {
                let what = format_args!("it is not supported here; {cure}");
                return Err(value.error(ErrorCode::UnsupportedParameter, what));
            }
            None => return Err(fields.unknown(name, own.iter().copied())),
        }
    }
    Ok(())
}

fn name(fields: &Object<'_, '_>) -> Result<Option<String>, ApiError> {
    fields.read("name", |json| json.short_text(MAX_NAME_CHARS))
}

/// A call that was made earlier.
fn tool_call(json: Json<'_, '_>) -> Result<ToolCall, ApiError> {
    let fields = json.object(MAX_FIELDS)?;
    fields.only(&[&["id", "type", "function"], CALL_EXTRAS].concat())?;
    let kind = fields.need("type")?;
    if kind.text()? != "function" {
        return Err(kind
            .unsupported(format_args!("it is {}, but only `function` is supported", Quote(&kind.text()?))));
    }
    let function = fields.need("function")?.object(MAX_FIELDS)?;
    function.only(&[&["name", "arguments"], FUNCTION_EXTRAS].concat())?;
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
        other if OTHER_PARTS.contains(&other) => {
            let what = format_args!("parts of type {} are not supported; only text is", Quote(other));
            return Err(json.error(ErrorCode::UnsupportedContent, what));
        }
        other => return Err(kind.invalid(format_args!("it is {}, but `text` is needed", Quote(other)))),
    };
    fields.only(&[&["type", of], PART_EXTRAS].concat())?;
    fields.need(of)?.text()
}

/// What an assistant's message may hold.
pub(crate) const ASSISTANT_FIELDS: &[&str] =
    &["role", "content", "name", "tool_calls", "refusal", "reasoning_content", "reasoning"];
/// What any message may have beside, whatever its value: marks for other servers' caches, and what clients keep with the
/// messages that they got. The model is told nothing of it.
pub(crate) const ANYWHERE: &[&str] = &[
    "cache_control",
    "annotations",
    "id",
    "metadata",
    "parsed",
    "provider_specific_fields",
    "reasoning_details",
    "thinking_blocks",
];
/// What a message may have as `null` only, unless its role has it, and what to do instead.
pub(crate) const OTHERS: &[(&str, &str)] = &[
    ("audio", "leave it out: only text is taken"),
    ("function_call", "use `tool_calls`"),
    ("reasoning", "only an assistant's message has it"),
    ("reasoning_content", "only an assistant's message has it"),
    ("refusal", "only an assistant's message has it"),
    ("tool_call_id", "only a tool's message has it"),
    ("tool_calls", "only an assistant's message has it"),
];
/// What a part of text may have beside it, whatever its value.
pub(crate) const PART_EXTRAS: &[&str] =
    &["annotations", "cache_control", "citations", "logprobs", "prompt_cache_breakpoint"];
/// What a call may have beside: its index if it was collected from a stream, and marks of other servers.
pub(crate) const CALL_EXTRAS: &[&str] =
    &["cache_control", "extra_content", "index", "provider_specific_fields"];
/// What a call's function may have beside: its arguments once more, as an object.
pub(crate) const FUNCTION_EXTRAS: &[&str] = &["parsed_arguments"];
/// Parts that are no text.
pub(super) const OTHER_PARTS: &[&str] = &[
    "audio",
    "audio_url",
    "computer_screenshot",
    "document",
    "file",
    "image",
    "image_file",
    "image_url",
    "input_audio",
    "input_file",
    "input_image",
    "video",
    "video_url",
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
