//! Every parameter that the API knows, by endpoint, and what becomes of it. The one table of the parser, of the `OpenAPI`
//! document and of the README's list.

use crate::error::{ApiError, ErrorCode};
use crate::read::{Kind, Object};

/// What becomes of a parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It is read and acted upon.
    Used,
    /// Any value is accepted and nothing follows from it; why.
    Ignored(&'static str),
    /// OpenAI's API has it, this server does not: anything but `null` is an error; what to do instead.
    Refused(&'static str),
}

/// A parameter of a request's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub effect: Effect,
}

/// The parameters of one endpoint.
pub type Parameters = &'static [&'static [Parameter]];

/// `POST /v1/chat/completions`.
pub const CHAT: Parameters = &[GENERATION, SAMPLING, CHAT_OWN, UNUSED, CHAT_REFUSED];
/// `POST /v1/completions`.
pub const COMPLETION: Parameters = &[GENERATION, SAMPLING, COMPLETION_OWN, UNUSED];
/// `POST /v1/responses`.
pub const RESPONSES: Parameters = &[GENERATION, RESPONSES_OWN, UNUSED];
/// `POST /v1/embeddings`.
pub const EMBEDDINGS: Parameters = &[&[
    used("model"),
    used("input"),
    used("dimensions"),
    used("encoding_format"),
    ignored("user", NO_USERS),
]];
/// `POST /tokenize`.
pub const TOKENIZE: Parameters = &[&[
    used("model"),
    used("prompt"),
    used("messages"),
    used("tools"),
    used("add_special_tokens"),
    used("add_generation_prompt"),
    used("chat_template_kwargs"),
    used("return_token_strs"),
]];
/// `POST /detokenize`.
pub const DETOKENIZE: Parameters = &[&[used("model"), used("tokens")]];

/// All names of an endpoint.
pub fn names(of: Parameters) -> impl Iterator<Item = &'static str> {
    of.iter().copied().flatten().map(|parameter| parameter.name)
}

/// Whether a body has only parameters that are known and not refused.
pub(super) fn check(body: &Object<'_, '_>, of: Parameters) -> Result<(), ApiError> {
    for (name, value) in body.iter() {
        match of.iter().copied().flatten().find(|parameter| parameter.name == name).map(|found| found.effect)
        {
            None => return Err(body.unknown(name, names(of))),
            Some(Effect::Refused(cure)) if value.kind() != Kind::Null => {
                let what = format_args!("`{name}` is not supported");
                return Err(ApiError::new(ErrorCode::UnsupportedParameter, what, cure).at(name));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

const fn used(name: &'static str) -> Parameter {
    Parameter { name, effect: Effect::Used }
}

const fn ignored(name: &'static str, why: &'static str) -> Parameter {
    Parameter { name, effect: Effect::Ignored(why) }
}

const fn refused(name: &'static str, cure: &'static str) -> Parameter {
    Parameter { name, effect: Effect::Refused(cure) }
}

const NO_USERS: &str = "requests are told apart by their API key";
const CACHED_ANYWAY: &str = "prefixes are reused whenever nodes still hold them";
const ONE_TIER: &str = "there is one tier; `priority` orders a key's own requests";
const NOTHING_KEPT: &str = "no answer is kept";
const MODELS_CHOICE: &str = "open models have no such setting; some templates take `chat_template_kwargs`";

/// Every endpoint that generates.
const GENERATION: &[Parameter] = &[
    used("model"),
    used("stream"),
    used("stream_options"),
    used("temperature"),
    used("top_p"),
    used("top_k"),
    used("min_p"),
    used("presence_penalty"),
    used("frequency_penalty"),
    used("repetition_penalty"),
    used("logit_bias"),
    used("seed"),
    used("stop"),
    used("numerics"),
    used("priority"),
    used("deadline_ms"),
];

/// Chat and text completions.
const SAMPLING: &[Parameter] = &[used("n"), used("max_tokens"), used("logprobs")];

const CHAT_OWN: &[Parameter] = &[
    used("messages"),
    used("max_completion_tokens"),
    used("top_logprobs"),
    used("tools"),
    used("tool_choice"),
    used("parallel_tool_calls"),
    used("response_format"),
    used("modalities"),
    used("add_generation_prompt"),
    used("chat_template_kwargs"),
    ignored("prediction", "it would only save time"),
    ignored("verbosity", MODELS_CHOICE),
    ignored("reasoning_effort", MODELS_CHOICE),
    ignored("reasoning", MODELS_CHOICE),
    ignored("include_reasoning", "thoughts are told apart from the answer, as `reasoning_content`"),
    ignored("thinking", MODELS_CHOICE),
    refused("enable_thinking", "put it into `chat_template_kwargs`"),
    refused("guided_json", "use `response_format` of type `json_schema`"),
    refused("guided_choice", "use `response_format` with a schema that has an `enum`"),
    refused("guided_regex", "use `response_format` with a schema that has a `pattern`"),
    refused("guided_grammar", "use `response_format` with a schema"),
];

const CHAT_REFUSED: &[Parameter] = &[
    refused("functions", "use `tools`"),
    refused("function_call", "use `tool_choice`"),
    refused("audio", "leave it out: only text is generated"),
    refused("web_search_options", "leave it out, or give a search tool of your own in `tools`"),
    refused("moderation", "leave it out: answers are not judged"),
];

const COMPLETION_OWN: &[Parameter] = &[
    used("prompt"),
    used("echo"),
    used("best_of"),
    refused("suffix", "leave it out, or write the model's own infilling markup into `prompt`"),
];

const RESPONSES_OWN: &[Parameter] = &[
    used("input"),
    used("instructions"),
    used("max_output_tokens"),
    used("top_logprobs"),
    used("include"),
    used("text"),
    used("tools"),
    used("tool_choice"),
    used("parallel_tool_calls"),
    used("truncation"),
    used("chat_template_kwargs"),
    ignored("reasoning", MODELS_CHOICE),
    ignored("max_tool_calls", "it bounds OpenAI's own tools only"),
    refused("previous_response_id", "send the whole conversation in `input`: no answer is kept"),
    refused("conversation", "send the whole conversation in `input`: none is kept"),
    refused("prompt", "write the prompt into `instructions` and `input`: no templates are kept"),
    used("background"),
    refused("context_management", "shorten `input` yourself"),
    refused("moderation", "leave it out: answers are not judged"),
];

/// Accepted everywhere, without effect.
const UNUSED: &[Parameter] = &[
    ignored("user", NO_USERS),
    ignored("safety_identifier", NO_USERS),
    ignored("metadata", NOTHING_KEPT),
    ignored("store", NOTHING_KEPT),
    ignored("service_tier", ONE_TIER),
    ignored("cache_control", CACHED_ANYWAY),
    ignored("prompt_cache_key", CACHED_ANYWAY),
    ignored("prompt_cache_options", CACHED_ANYWAY),
    ignored("prompt_cache_retention", CACHED_ANYWAY),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::body;

    #[test]
    fn names_are_listed_once() {
        for of in [CHAT, COMPLETION, RESPONSES, EMBEDDINGS, TOKENIZE, DETOKENIZE] {
            let mut all: Vec<_> = names(of).collect();
            all.sort_unstable();
            let count = all.len();
            all.dedup();
            assert_eq!(all.len(), count);
        }
    }

    #[test]
    fn what_is_not_taken_is_named_with_its_cure() {
        let told = |text: &str| check(&body(text.as_bytes()).unwrap(), CHAT).unwrap_err();
        let functions = told(r#"{"functions":[]}"#);
        assert_eq!(
            (functions.code(), functions.param()),
            (ErrorCode::UnsupportedParameter, Some("functions"))
        );
        assert!(functions.message().contains("use `tools`"));
        assert!(told(r#"{"max_completion_token":1}"#).message().contains("`max_completion_tokens`"));
        assert!(check(&body(br#"{"functions":null,"user":["anything"]}"#).unwrap(), CHAT).is_ok());
    }
}
