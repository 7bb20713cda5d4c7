//! `POST /v1/chat/completions`: a body into a checked request.

use std::fmt;
use std::marker::PhantomData;

use proto::answer::{Grammar, MAX_GRAMMAR_BYTES, MAX_TOP_LOGPROBS};
use proto_text::{ChatMessage, MAX_STOPS};
use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::{self, Asked, StreamOptions, Urgency, Written};
use crate::list::{AtMost, Texts};
use crate::tools::{self, Tools};

/// A checked request.
#[derive(Clone, PartialEq, Debug)]
pub struct ChatRequest {
    /// What does not concern the prompt.
    pub asked: Asked,
    /// The conversation, at least one message.
    pub messages: Vec<ChatMessage>,
    /// Functions that the answer may call.
    pub tools: Tools,
    /// The shape of the answer's text.
    pub format: ResponseFormat,
    /// Further values for the model's template.
    pub template_values: Map<String, Value>,
}

/// The shape of an answer's text.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum ResponseFormat {
    /// Any.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of this schema.
    JsonSchema(String),
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident, $known:ident { $($(#[$attr:meta])* $field:ident : $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($(#[$attr])* #[serde(default)] $field: Option<$type>,)*
        }
        /// Every parameter.
        pub(crate) const $known: &[&str] = &[$(stringify!($field),)*];
    };
}
pub(crate) use request;

request! {
    /// The object as it is written.
    Body, KNOWN {
        model: String,
        messages: AtMost<Message, MAX_MESSAGES>,
        numerics: String,
        priority: Urgency,
        deadline_ms: u64,
        n: u32,
        max_tokens: u32,
        max_completion_tokens: u32,
        temperature: f32,
        top_p: f32,
        top_k: i64,
        min_p: f32,
        presence_penalty: f32,
        frequency_penalty: f32,
        repetition_penalty: f32,
        logit_bias: std::collections::BTreeMap<String, f32>,
        seed: i64,
        stop: Texts<MAX_STOPS>,
        logprobs: bool,
        top_logprobs: u8,
        stream: bool,
        stream_options: StreamOptions,
        tools: AtMost<tools::WrittenTool, { tools::MAX_TOOLS }>,
        tool_choice: tools::WrittenChoice,
        parallel_tool_calls: bool,
        response_format: WrittenFormat,
        chat_template_kwargs: Map<String, Value>,
        functions: IgnoredAny,
        function_call: IgnoredAny,
        modalities: IgnoredAny,
        audio: IgnoredAny,
        prediction: IgnoredAny,
        web_search_options: IgnoredAny,
        // Without effect here.
        user: IgnoredAny,
        metadata: IgnoredAny,
        store: IgnoredAny,
        service_tier: IgnoredAny,
        prompt_cache_key: IgnoredAny,
        prompt_cache_retention: IgnoredAny,
        safety_identifier: IgnoredAny,
        reasoning_effort: IgnoredAny,
        verbosity: IgnoredAny,
    }
}

#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_calls: Option<AtMost<tools::WrittenCall, { tools::MAX_TOOLS }>>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    // What the API's own answers carry, and clients send back.
    #[serde(default, rename = "refusal")]
    _refusal: Option<Value>,
    #[serde(default, rename = "annotations")]
    _annotations: Option<Value>,
    #[serde(default, rename = "audio")]
    audio: Option<Value>,
    #[serde(default, rename = "function_call")]
    function_call: Option<Value>,
}

/// Text, or parts of it put together.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Content(pub(crate) String);

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct WrittenFormat {
    r#type: String,
    json_schema: Option<WrittenSchema>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSchema {
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    schema: Option<Value>,
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// Turns of a conversation: a context of 131,072 positions holds no more of them than this.
pub(crate) const MAX_MESSAGES: usize = 16_384;
/// Parts of a message.
const MAX_PARTS: usize = 1024;
/// Values for a template beyond those that every template knows.
const MAX_TEMPLATE_VALUES: usize = 32;

impl ChatRequest {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let body: Body = fields::read(body, KNOWN)?;
        for (name, given, instead) in [
            ("functions", &body.functions, "give `tools`"),
            ("function_call", &body.function_call, "give `tool_choice`"),
            ("audio", &body.audio, "only text is answered"),
            ("prediction", &body.prediction, "leave it out"),
            ("web_search_options", &body.web_search_options, "give the results as a message"),
        ] {
            if given.is_some() {
                return Err(ApiError::unsupported(name, format_args!("it is not served here; {instead}")));
            }
        }
        let missing = || ApiError::invalid("messages".to_owned(), "missing_parameter", "`messages` is needed");
        let written = body.messages.ok_or_else(missing)?.0;
        if written.is_empty() {
            return Err(ApiError::value("messages", "it is empty"));
        }
        let messages =
            written.into_iter().enumerate().map(|(index, message)| message.check(index)).collect::<Result<_, _>>()?;
        let asked = Written {
            model: body.model,
            numerics: body.numerics,
            priority: body.priority,
            deadline_ms: body.deadline_ms,
            n: body.n,
            max_tokens: [("max_tokens", body.max_tokens), ("max_completion_tokens", body.max_completion_tokens)],
            temperature: body.temperature,
            top_p: body.top_p,
            top_k: body.top_k,
            min_p: body.min_p,
            presence_penalty: body.presence_penalty,
            frequency_penalty: body.frequency_penalty,
            repetition_penalty: body.repetition_penalty,
            logit_bias: body.logit_bias,
            seed: body.seed,
            stop: body.stop,
            logprobs: logprobs(body.logprobs, body.top_logprobs)?,
            stream: body.stream,
            stream_options: body.stream_options,
        };
        let template_values = body.chat_template_kwargs.unwrap_or_default();
        if template_values.len() > MAX_TEMPLATE_VALUES {
            let count = template_values.len();
            return Err(ApiError::value("chat_template_kwargs", format_args!("{count} entries, at most {MAX_TEMPLATE_VALUES}")));
        }
        let tools = Tools::check(body.tools.map(|tools| tools.0), body.tool_choice, body.parallel_tool_calls)?;
        let format = body.response_format.map(WrittenFormat::check).transpose()?.unwrap_or_default();
        if format != ResponseFormat::Text && tools.must_call() {
            return Err(ApiError::value("response_format", "a call is asked for by `tool_choice`: give one of the two"));
        }
        Ok(Self { asked: asked.check(MAX_TOP_LOGPROBS)?, messages, tools, format, template_values })
    }
}

impl ResponseFormat {
    /// Which texts an answer of this shape may be.
    pub fn grammar(&self) -> Option<Grammar> {
        match self {
            Self::Text => None,
            Self::JsonObject => Some(Grammar::JsonSchema(json!({"type": "object"}).to_string())),
            Self::JsonSchema(schema) => Some(Grammar::JsonSchema(schema.clone())),
        }
    }
}

fn logprobs(told: Option<bool>, top: Option<u8>) -> Result<Option<u8>, ApiError> {
    match (told.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::value("top_logprobs", "only with `logprobs`: true")),
    }
}

impl WrittenFormat {
    fn check(self) -> Result<ResponseFormat, ApiError> {
        match (&self.r#type[..], self.json_schema) {
            ("text", None) => Ok(ResponseFormat::Text),
            ("json_object", None) => Ok(ResponseFormat::JsonObject),
            ("json_schema", Some(WrittenSchema { schema: Some(schema), .. })) => {
                schema_text("response_format.json_schema.schema", &schema).map(ResponseFormat::JsonSchema)
            }
            ("json_schema", _) => {
                Err(ApiError::value("response_format.json_schema", "a `schema` is needed in it"))
            }
            ("text" | "json_object", Some(_)) => {
                Err(ApiError::value("response_format.json_schema", "only with `type`: \"json_schema\""))
            }
            _ => Err(ApiError::value("response_format.type", "one of text, json_object, json_schema")),
        }
    }
}

/// A schema as it goes to the tail.
pub(crate) fn schema_text(param: &str, schema: &Value) -> Result<String, ApiError> {
    if !schema.is_object() {
        return Err(ApiError::value(param, "a schema is a JSON object"));
    }
    let text = schema.to_string();
    if text.len() > MAX_GRAMMAR_BYTES {
        return Err(ApiError::value(param, format_args!("{} bytes, at most {MAX_GRAMMAR_BYTES}", text.len())));
    }
    Ok(text)
}

impl Message {
    fn check(self, index: usize) -> Result<ChatMessage, ApiError> {
        let at = |field: &str| format!("messages[{index}].{field}");
        if self.audio.is_some_and(|audio| !audio.is_null()) {
            return Err(ApiError::unsupported(&at("audio"), "only text is served here"));
        }
        if self.function_call.is_some_and(|call| !call.is_null()) {
            return Err(ApiError::unsupported(&at("function_call"), "give `tool_calls`"));
        }
        if !["system", "developer", "user", "assistant", "tool"].contains(&&self.role[..]) {
            return Err(ApiError::value(&at("role"), "one of system, developer, user, assistant, tool"));
        }
        let assistant = self.role == "assistant";
        if self.content.is_none() && !(assistant && self.tool_calls.is_some()) {
            return Err(ApiError::value(&at("content"), "it is missing"));
        }
        if self.tool_calls.is_some() && !assistant {
            return Err(ApiError::value(&at("tool_calls"), "only an assistant calls tools"));
        }
        if self.role == "tool" && self.tool_call_id.is_none() {
            return Err(ApiError::value(&at("tool_call_id"), "a tool's result names the call that it answers"));
        }
        // Templates know the older name.
        let role = if self.role == "developer" { "system".to_owned() } else { self.role };
        let mut message = ChatMessage::new(role, self.content.as_ref().map(|text| text.0.clone()).unwrap_or_default());
        if self.content.is_none() {
            message.more.insert("content".into(), Value::Null);
        }
        for (name, value) in
            [("name", self.name), ("tool_call_id", self.tool_call_id), ("reasoning_content", self.reasoning_content)]
        {
            if let Some(value) = value {
                message.more.insert(name.into(), value.into());
            }
        }
        if let Some(calls) = self.tool_calls {
            let calls = calls.0.into_iter().map(tools::WrittenCall::into_template_value).collect();
            message.more.insert("tool_calls".into(), Value::Array(calls));
        }
        Ok(message)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor(PhantomData))
    }
}

struct ContentVisitor<'de>(PhantomData<&'de ()>);

impl<'de> Visitor<'de> for ContentVisitor<'de> {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of text parts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
        let (mut text, mut count) = (String::new(), 0);
        while let Some(Part { r#type, text: part }) = parts.next_element()? {
            match (&r#type[..], part) {
                ("text" | "input_text" | "output_text", Some(part)) => text.push_str(&part),
                ("text" | "input_text" | "output_text", None) => return Err(de::Error::missing_field("text")),
                _ => {
                    let kind: String = r#type.chars().take(64).collect();
                    return Err(de::Error::custom(format_args!("a part of type {kind:?} is not served here, only text")));
                }
            }
            count += 1;
            if count > MAX_PARTS {
                return Err(de::Error::custom(format_args!("more than {MAX_PARTS} parts")));
            }
        }
        Ok(Content(text))
    }
}

#[cfg(test)]
mod tests;
