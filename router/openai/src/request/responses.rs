//! `POST /v1/responses`: what OpenAI's clients need of it for text and tools. No answer is kept, so whatever refers to an
//! earlier one is an error that says so.

use proto::answer::MAX_TOP_LOGPROBS;

use super::chat::{Chat, template_variables};
use super::constraint::{Constraint, text_format};
use super::generation::{Generation, MAX_FIELDS, alternatives, token_limit};
use super::items;
use super::parameters::{self, RESPONSES};
use super::tools::{ToolShape, Tools};
use crate::error::ApiError;
use crate::json::{write_text, write_u64, write_value};
use crate::read::{self, Json, Object};

/// A request for a response.
#[derive(Clone, PartialEq, Debug)]
pub struct ResponsesRequest {
    /// What is asked for, whatever the endpoint.
    pub generation: Generation,
    /// The conversation and what the template is told of it.
    pub chat: Chat,
    /// What the answer must look like.
    pub constraint: Constraint,
    /// What a response repeats of its request: fields of a JSON object, each with a comma in front.
    pub(crate) echo: Vec<u8>,
}

impl ResponsesRequest {
    /// Reads a body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let body = read::body(bytes)?;
        parameters::check(&body, RESPONSES)?;
        let mut generation = Generation::read(&body)?;
        generation.max_tokens = token_limit(&body, "max_output_tokens")?;
        generation.logprobs = logprobs(&body)?;
        if let Some(json) = body.get("background")
            && json.boolean()?
        {
            return Err(json.unsupported("answers are given at once; leave it out"));
        }
        if let Some(json) = body.get("truncation")
            && json.word(&[("disabled", false), ("auto", true)])?
        {
            return Err(json.unsupported("nothing is left out of the input; shorten it yourself"));
        }
        let chat = Chat {
            messages: items::messages(&body)?,
            tools: Tools::read(&body, ToolShape::Flat)?,
            add_generation_prompt: true,
            variables: body.read("chat_template_kwargs", template_variables)?.unwrap_or_default(),
        };
        let format = body.read("text", text)?.unwrap_or_default();
        let at = if format == Constraint::None { "tools" } else { "text" };
        let constraint = Constraint::new(&chat.tools, format, at)?;
        let echo = echo(&body, &generation, &chat);
        Ok(Self { generation, chat, constraint, echo })
    }
}

fn text(json: Json<'_, '_>) -> Result<Constraint, ApiError> {
    let fields = json.object(MAX_FIELDS)?;
    fields.only(&["format", "verbosity"])?;
    fields.read("verbosity", |json| json.word(&[("low", ()), ("medium", ()), ("high", ())]))?;
    Ok(fields.read("format", text_format)?.unwrap_or_default())
}

fn logprobs(body: &Object<'_, '_>) -> Result<Option<u8>, ApiError> {
    let mut wanted = false;
    if let Some(json) = body.get("include") {
        for json in json.list(INCLUDES.len())?.iter() {
            wanted |= json.word(INCLUDES)?;
        }
    }
    let alternatives = body.read("top_logprobs", |json| alternatives(json, MAX_TOP_LOGPROBS))?;
    Ok(if wanted { Some(alternatives.unwrap_or(0)) } else { alternatives.filter(|&number| number > 0) })
}

/// What may be included. Only probabilities are ours to include; the others concern what is not there to begin with.
pub(crate) const INCLUDES: &[(&str, bool)] = &[
    ("message.output_text.logprobs", true),
    ("reasoning.encrypted_content", false),
    ("web_search_call.results", false),
    ("web_search_call.action.sources", false),
    ("file_search_call.results", false),
    ("message.input_image.image_url", false),
    ("computer_call_output.output.image_url", false),
    ("code_interpreter_call.outputs", false),
];

fn echo(body: &Object<'_, '_>, generation: &Generation, chat: &Chat) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, otherwise) in [("instructions", "null"), ("tools", "[]"), ("tool_choice", "\"auto\"")] {
        out.push(b',');
        write_text(name, &mut out);
        out.push(b':');
        let source = body.get(name).map(|json| json.source()).filter(|source| source.len() <= MAX_ECHO);
        out.extend_from_slice(source.unwrap_or(otherwise).as_bytes());
    }
    out.extend_from_slice(b",\"metadata\":");
    // It is nothing to us, and so may be anything.
    let metadata = body.get("metadata").and_then(|json| json.object_tree(MAX_METADATA).ok());
    write_value(&metadata.unwrap_or_default(), &mut out);
    out.extend_from_slice(b",\"max_output_tokens\":");
    match generation.max_tokens {
        Some(limit) => write_u64(u64::from(limit), &mut out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"parallel_tool_calls\":");
    write_value(&chat.tools.parallel, &mut out);
    out.extend_from_slice(b",\"temperature\":");
    write_value(&generation.sampling.temperature, &mut out);
    out.extend_from_slice(b",\"top_p\":");
    write_value(&generation.sampling.top_p, &mut out);
    out.extend_from_slice(b",\"top_logprobs\":");
    write_u64(u64::from(generation.logprobs.unwrap_or(0)), &mut out);
    out.extend_from_slice(b",\"text\":");
    let text = body
        .get("text")
        .filter(|json| json.object(MAX_FIELDS).is_ok_and(|text| text.get("format").is_some()));
    let text = text.map_or("{\"format\":{\"type\":\"text\"}}", |json| json.source());
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(
        b",\"truncation\":\"disabled\",\"background\":false,\"store\":false,\"previous_response_id\":null,\
          \"reasoning\":{\"effort\":null,\"summary\":null},\"service_tier\":\"default\",\"user\":null",
    );
    out
}

/// Metadata that is repeated: OpenAI's API takes 16 pairs of some hundred bytes.
const MAX_METADATA: usize = 16 << 10;
/// A field that is repeated at most: an answer of megabytes helps nobody.
const MAX_ECHO: usize = 256 << 10;

#[cfg(test)]
mod tests;
