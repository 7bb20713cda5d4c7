//! `POST /v1/completions`: a body into a checked request.

use std::fmt;

use proto::session::MAX_POSITIONS;
use proto_text::MAX_STOPS;
use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::chat::request;
use crate::error::ApiError;
use crate::fields::{self, Asked, StreamOptions, Urgency, Written};
use crate::list::Texts;

/// A checked request.
#[derive(Clone, PartialEq, Debug)]
pub struct CompletionRequest {
    /// What does not concern the prompt.
    pub asked: Asked,
    /// What to continue, at least one.
    pub prompts: Vec<CompletionPrompt>,
    /// The answer begins with the prompt.
    pub echo: bool,
}

/// What to continue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompletionPrompt {
    /// Text as it is.
    Text(String),
    /// Ids as they are.
    TokenIds(Vec<u32>),
}

#[derive(Debug)]
struct Prompts(Vec<CompletionPrompt>);

request! {
    /// The object as it is written.
    Body, KNOWN {
        model: String,
        prompt: Prompts,
        numerics: String,
        priority: Urgency,
        deadline_ms: u64,
        n: u32,
        best_of: u32,
        echo: bool,
        suffix: String,
        max_tokens: u32,
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
        logprobs: u8,
        stream: bool,
        stream_options: StreamOptions,
        // Without effect here.
        user: IgnoredAny,
    }
}

/// Prompts of one request, each a session: as many as answers.
const MAX_PROMPTS: usize = 16;
/// As in the API.
const MOST_LOGPROBS: u8 = 5;
/// As in the API, where nothing is said.
const USUAL_MAX_TOKENS: u32 = 16;

impl CompletionRequest {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let body: Body = fields::read(body, KNOWN)?;
        if body.best_of.is_some_and(|best| best != body.n.unwrap_or(1)) {
            return Err(ApiError::unsupported("best_of", "only as many as `n` are generated"));
        }
        if body.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "nothing is put in between here"));
        }
        let missing = || ApiError::invalid("prompt".to_owned(), "missing_parameter", "`prompt` is needed");
        let prompts = body.prompt.ok_or_else(missing)?.0;
        if prompts.is_empty() {
            return Err(ApiError::value("prompt", "it is empty"));
        }
        let asked = Written {
            model: body.model,
            numerics: body.numerics,
            priority: body.priority,
            deadline_ms: body.deadline_ms,
            n: body.n,
            max_tokens: [("max_tokens", body.max_tokens.or(Some(USUAL_MAX_TOKENS))), ("max_tokens", None)],
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
            logprobs: body.logprobs,
            stream: body.stream,
            stream_options: body.stream_options,
        };
        let asked = asked.check(MOST_LOGPROBS)?;
        let all = prompts.len() * asked.choices as usize;
        if all > MAX_PROMPTS {
            return Err(ApiError::value("n", format_args!("{all} answers, {MAX_PROMPTS} at most")));
        }
        Ok(Self { asked, prompts, echo: body.echo.unwrap_or(false) })
    }
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptsVisitor)
    }
}

struct PromptsVisitor;

/// An entry of a list of prompts.
enum Entry {
    Id(u32),
    Prompt(CompletionPrompt),
}

impl<'de> Visitor<'de> for PromptsVisitor {
    type Value = Prompts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list of token ids, or a list of such")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompts, E> {
        Ok(Prompts(vec![CompletionPrompt::Text(text.to_owned())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts, A::Error> {
        let (mut ids, mut prompts) = (Vec::new(), Vec::new());
        while let Some(entry) = list.next_element()? {
            match entry {
                Entry::Id(id) if ids.len() < MAX_POSITIONS as usize => ids.push(id),
                Entry::Prompt(prompt) if prompts.len() < MAX_PROMPTS => prompts.push(prompt),
                _ => {
                    let most = format_args!("at most {MAX_PROMPTS} prompts of {MAX_POSITIONS} ids");
                    return Err(de::Error::custom(most));
                }
            }
        }
        match (ids.is_empty(), prompts.is_empty()) {
            (false, false) => Err(de::Error::custom("ids and prompts are mixed")),
            (false, true) => Ok(Prompts(vec![CompletionPrompt::TokenIds(ids)])),
            _ => Ok(Prompts(prompts)),
        }
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id, a text or a list of token ids")
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<Entry, E> {
        u32::try_from(id).map(Entry::Id).map_err(|_| E::custom(format_args!("{id} is no token id")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
        Ok(Entry::Prompt(CompletionPrompt::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entry, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            if ids.len() == MAX_POSITIONS as usize {
                return Err(de::Error::custom(format_args!("more than {MAX_POSITIONS} ids")));
            }
            ids.push(id);
        }
        Ok(Entry::Prompt(CompletionPrompt::TokenIds(ids)))
    }
}
