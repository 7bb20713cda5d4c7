//! `POST /v1/chat/completions`.

use proto::answer::MAX_TOP_LOGPROBS;
use proto_text::ChatMessage;
use serde_json::{Map, Value};

use super::constraint::{Constraint, response_format};
use super::generation::{Generation, alternatives, token_limit};
use super::messages;
use super::parameters::{self, CHAT};
use super::tools::{ToolShape, Tools};
use crate::error::{ApiError, ErrorCode};
use crate::read::{self, Json, Kind, Object};

/// A request for a chat's next message.
#[derive(Clone, PartialEq, Debug)]
pub struct ChatRequest {
    /// What is asked for, whatever the endpoint.
    pub generation: Generation,
    /// The conversation and what the template is told of it.
    pub chat: Chat,
    /// What the answer must look like.
    pub constraint: Constraint,
}

/// A conversation, ready for a model's template.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Chat {
    /// The turns, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Tools that may be called.
    pub tools: Tools,
    /// Whether the prompt ends with the beginning of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

impl ChatRequest {
    /// Reads a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let body = read::body(bytes)?;
        parameters::check(&body, CHAT)?;
        let mut generation = Generation::read(&body)?;
        generation.read_choices(&body)?;
        generation.max_tokens = max_tokens(&body)?;
        generation.logprobs = logprobs(&body)?;
        body.read("modalities", modalities)?;
        let chat = Chat {
            messages: messages::messages(body.need("messages")?)?,
            tools: Tools::read(&body, ToolShape::Nested)?,
            add_generation_prompt: body.read("add_generation_prompt", |json| json.boolean())?.unwrap_or(true),
            variables: body.read("chat_template_kwargs", template_variables)?.unwrap_or_default(),
        };
        let format = body.read("response_format", response_format)?.unwrap_or_default();
        let at = if body.get("response_format").is_some() { "response_format" } else { "tools" };
        let constraint = Constraint::new(&chat.tools, format, at)?;
        Ok(Self { generation, chat, constraint })
    }
}

/// The newer name wins only by saying the same.
fn max_tokens(body: &Object<'_, '_>) -> Result<Option<u32>, ApiError> {
    let (old, new) = (token_limit(body, "max_tokens")?, token_limit(body, "max_completion_tokens")?);
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let what = format_args!("`max_tokens` is {old} and `max_completion_tokens` is {new}");
        return Err(ApiError::new(ErrorCode::Conflict, what, "give one of them").at("max_tokens"));
    }
    Ok(new.or(old))
}

fn logprobs(body: &Object<'_, '_>) -> Result<Option<u8>, ApiError> {
    let wanted = body.read("logprobs", |json| json.boolean())?.unwrap_or(false);
    let Some(json) = body.get("top_logprobs") else { return Ok(wanted.then_some(0)) };
    let alternatives = alternatives(json, MAX_TOP_LOGPROBS)?;
    if !wanted && alternatives > 0 {
        return Err(json.error(ErrorCode::Conflict, "it needs `logprobs`; set that to true"));
    }
    Ok(wanted.then_some(alternatives))
}

fn modalities(json: Json<'_, '_>) -> Result<(), ApiError> {
    for json in json.list(2)?.iter() {
        if json.text()? != "text" {
            return Err(json.unsupported("only `text` is generated"));
        }
    }
    Ok(())
}

/// Variables for the template: plain values under names that a template can say.
pub(super) fn template_variables(json: Json<'_, '_>) -> Result<Map<String, Value>, ApiError> {
    let fields = json.object(MAX_VARIABLES)?;
    for (name, value) in fields.iter() {
        if !name.starts_with(|c: char| c.is_ascii_alphabetic())
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            return Err(
                value.invalid("a variable's name has letters, digits and `_`, and begins with a letter")
            );
        }
        if matches!(value.kind(), Kind::Object | Kind::List) {
            return Err(value.wrong_type("a string, a number or a boolean"));
        }
        if RESERVED.contains(&name) {
            return Err(value.invalid("it has a parameter of its own; use that"));
        }
    }
    json.object_tree(MAX_VARIABLES_BYTES)
}

/// What the request says elsewhere.
const RESERVED: &[&str] =
    &["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"];
/// Templates know a handful.
pub(crate) const MAX_VARIABLES: usize = 32;
/// Room for a text among them, such as a system prompt of its own.
const MAX_VARIABLES_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests;
