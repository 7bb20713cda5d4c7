//! A request's body as the API takes it, checked: bytes in, a request or a problem out. Pure.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use proto::answer::AnswerTerms;
use proto::session::{MAX_POSITIONS, SamplingParams};
use proto::tensor::NumericsClass;
use proto_text::{ChatMessage, MAX_STOPS};
use router_openai::ErrorCode;
use router_plan::ModelRef;
use router_plan::admission::{Priority, Tenant};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Problem;
use crate::model::Prompt;

/// What is asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// Which model; `None` takes the only one there is.
    pub model: Option<ModelRef>,
    /// The numerics class; `None` takes any.
    pub class: Option<NumericsClass>,
    /// What to continue.
    pub prompt: Prompt,
    /// Tokens to generate at most.
    pub max_tokens: u32,
    /// How to sample. Its seed is the request's, unless it is to be drawn.
    pub sampling: SamplingParams,
    /// The seed is still to be drawn.
    pub draw_seed: bool,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Piece by piece, or at once.
    pub stream: bool,
    /// Whose share it counts against.
    pub tenant: Tenant,
    /// Its place among the tenant's own requests.
    pub priority: Priority,
    /// For the whole answer, waiting included.
    pub deadline: Option<Duration>,
    /// What the answer must look like, and what is told of its choices.
    pub answer: AnswerTerms,
    /// Special tokens that are shown as text.
    pub markers: Vec<&'static str>,
}

/// The object as it is written.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Written {
    model: Option<String>,
    numerics: Option<String>,
    prompt: Option<String>,
    #[serde(default, deserialize_with = "messages")]
    messages: Option<Vec<WrittenMessage>>,
    #[serde(default, deserialize_with = "token_ids")]
    token_ids: Option<Vec<u32>>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    seed: Option<u64>,
    stop: Option<Stops>,
    stream: Option<bool>,
    tenant: Option<String>,
    priority: Option<WrittenPriority>,
    deadline_ms: Option<u64>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct WrittenMessage {
    role: String,
    content: String,
}

/// One text or a list of them.
#[derive(Debug)]
struct Stops(Vec<String>);

impl<'de> Deserialize<'de> for Stops {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StopsVisitor)
    }
}

struct StopsVisitor;

impl<'de> Visitor<'de> for StopsVisitor {
    type Value = Stops;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text or a list of at most {MAX_STOPS} texts")
    }

    fn visit_str<E: de::Error>(self, one: &str) -> Result<Stops, E> {
        Ok(Stops(vec![one.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Stops, A::Error> {
        at_most(list, MAX_STOPS, "stop").map(Stops)
    }
}

fn messages<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<WrittenMessage>>, D::Error> {
    from.deserialize_any(ListVisitor { most: MAX_MESSAGES, name: "messages", item: PhantomData })
}

fn token_ids<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u32>>, D::Error> {
    let most = MAX_POSITIONS as usize;
    from.deserialize_any(ListVisitor { most, name: "token_ids", item: PhantomData })
}

struct ListVisitor<T> {
    most: usize,
    name: &'static str,
    item: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {}", self.most)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<Vec<T>>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Option<Vec<T>>, A::Error> {
        at_most(list, self.most, self.name).map(Some)
    }
}

/// A list that is not built beyond its limit: small items take many times their bytes of the body.
fn at_most<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    mut list: A,
    most: usize,
    name: &str,
) -> Result<Vec<T>, A::Error> {
    let mut items = Vec::new();
    while let Some(item) = list.next_element()? {
        if items.len() == most {
            return Err(de::Error::custom(format_args!("`{name}` has more than {most} entries")));
        }
        items.push(item);
    }
    Ok(items)
}

#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum WrittenPriority {
    Low,
    Normal,
    High,
}

/// Tokens of an answer if the request does not say.
const DEFAULT_MAX_TOKENS: u32 = 256;
/// A deadline beyond this is a mistake of units.
const MAX_DEADLINE_MS: u64 = 24 * 3600 * 1000;
/// Turns of a conversation: a context of 131,072 positions holds no more of them than this.
const MAX_MESSAGES: usize = 16_384;

impl Asked {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body).map_err(|error| {
            Problem::new(
                ErrorCode::InvalidValue,
                format!("the body is no UTF-8 from byte {} on", error.valid_up_to()),
                "send JSON in UTF-8",
            )
        })?;
        // A list of values in the order of the fields would be read as well.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(Problem::new(
                ErrorCode::InvalidValue,
                "the body is no JSON object",
                "send one JSON object with the fields of docs/OPERATIONS.md",
            ));
        }
        let written: Written = serde_json::from_str(text).map_err(|error| {
            Problem::new(
                ErrorCode::InvalidValue,
                format!("read the body: {error}"),
                "send one JSON object with the fields of docs/OPERATIONS.md",
            )
        })?;
        written.check()
    }
}

impl Written {
    fn check(self) -> Result<Asked, Problem> {
        let prompt = prompt(self.prompt, self.messages, self.token_ids)?;
        let model = self
            .model
            .as_deref()
            .map(str::parse::<ModelRef>)
            .transpose()
            .map_err(|error| Problem::field("model", error))?;
        let class = self
            .numerics
            .as_deref()
            .map(str::parse::<NumericsClass>)
            .transpose()
            .map_err(|error| Problem::field("numerics", error))?;
        let tenant = self
            .tenant
            .as_deref()
            .unwrap_or_default()
            .parse()
            .map_err(|error: router_plan::admission::TenantError| Problem::field("tenant", error))?;
        if self.max_tokens == Some(0) {
            return Err(Problem::field("max_tokens", "at least 1"));
        }
        let deadline = match self.deadline_ms {
            Some(ms) if !(1..=MAX_DEADLINE_MS).contains(&ms) => {
                return Err(Problem::field(
                    "deadline_ms",
                    format!("{ms} is not within 1 to {MAX_DEADLINE_MS}"),
                ));
            }
            ms => ms.map(Duration::from_millis),
        };
        let temperature = self.temperature.unwrap_or(0.0);
        Ok(Asked {
            model,
            class,
            prompt,
            max_tokens: self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS),
            sampling: SamplingParams {
                temperature,
                top_p: self.top_p.unwrap_or(1.0),
                top_k: self.top_k.unwrap_or(0),
                min_p: self.min_p.unwrap_or(0.0),
                seed: self.seed.unwrap_or(0),
                ..SamplingParams::default()
            },
            // Greedy choices do not depend on it.
            draw_seed: self.seed.is_none() && temperature != 0.0,
            stop: self.stop.map(|Stops(stops)| stops).unwrap_or_default(),
            stream: self.stream.unwrap_or(false),
            tenant,
            priority: match self.priority {
                Some(WrittenPriority::Low) => Priority::Low,
                Some(WrittenPriority::High) => Priority::High,
                Some(WrittenPriority::Normal) | None => Priority::Normal,
            },
            deadline,
            answer: AnswerTerms::default(),
            markers: Vec::new(),
        })
    }
}

fn prompt(
    text: Option<String>,
    messages: Option<Vec<WrittenMessage>>,
    ids: Option<Vec<u32>>,
) -> Result<Prompt, Problem> {
    let exactly_one = || {
        Problem::new(
            ErrorCode::InvalidValue,
            "exactly one of `prompt`, `messages` and `token_ids` is needed",
            "give one of them and leave the others out",
        )
    };
    match (text, messages, ids) {
        (Some(text), None, None) if text.is_empty() => Err(Problem::field("prompt", "it is empty")),
        (Some(text), None, None) => Ok(Prompt::Text(text)),
        (None, Some(messages), None) if messages.is_empty() => Err(Problem::field("messages", "it is empty")),
        (None, Some(messages), None) => Ok(Prompt::Chat(
            messages.into_iter().map(|message| ChatMessage::new(message.role, message.content)).collect(),
        )),
        (None, None, Some(ids)) if ids.is_empty() => Err(Problem::field("token_ids", "it is empty")),
        (None, None, Some(ids)) => Ok(Prompt::TokenIds(ids)),
        _ => Err(exactly_one()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        let problem = Asked::parse(body.as_bytes()).unwrap_err();
        assert_eq!(problem.code(), ErrorCode::InvalidValue, "{body}");
        String::from_utf8(problem.error().to_json()).unwrap()
    }

    #[test]
    fn a_whole_request_is_read() {
        let body = r#"{"model":"toy","token_ids":[1,2],"max_tokens":7,"temperature":0.5,"top_p":0.9,"seed":3,
            "stop":"x","stream":true,"tenant":"t","priority":"high","deadline_ms":1500}"#;
        let asked = Asked::parse(body.as_bytes()).unwrap();
        // What is not given may be null.
        let nulls = body.replacen('{', r#"{"messages":null,"prompt":null,"#, 1);
        assert_eq!(Asked::parse(nulls.as_bytes()).unwrap(), asked);
        assert_eq!(asked.model, Some(ModelRef::Name("toy".into())));
        assert_eq!((asked.prompt, asked.max_tokens), (Prompt::TokenIds(vec![1, 2]), 7));
        assert_eq!((asked.sampling.temperature, asked.sampling.seed, asked.draw_seed), (0.5, 3, false));
        assert_eq!((asked.stop, asked.stream), (vec!["x".to_owned()], true));
        assert_eq!((asked.priority, asked.deadline), (Priority::High, Some(Duration::from_millis(1500))));
    }

    #[test]
    fn mistakes_are_named() {
        for (body, word) in [
            ("", "no JSON object"),
            ("[\"toy\"]", "no JSON object"),
            ("{", "EOF"),
            (r#"{"prompt":"a","tempreature":1}"#, "tempreature"),
            (r#"{"prompt":"a","temperature":NaN}"#, "expected value"),
            (r#"{"prompt":"a","temperature":"hot"}"#, "invalid type"),
            (r#"{"prompt":"a","max_tokens":0}"#, "max_tokens"),
            (r#"{"prompt":"a","max_tokens":-1}"#, "invalid value"),
            (r#"{"prompt":"a","max_tokens":1e99}"#, "invalid type"),
            (r#"{"prompt":""}"#, "empty"),
            (r#"{"messages":[]}"#, "messages"),
            (r#"{"messages":"hi"}"#, "a list of at most"),
            (r#"{"prompt":"a","stop":7}"#, "a text or a list of at most"),
            (
                &format!(r#"{{"prompt":"a","stop":[{}"x"]}}"#, "\"x\",".repeat(1 << 20)),
                "`stop` has more than",
            ),
            (&format!(r#"{{"token_ids":[{}1]}}"#, "1,".repeat(1 << 20)), "`token_ids` has more than"),
            (r#"{"token_ids":[]}"#, "empty"),
            (r#"{"token_ids":[-1]}"#, "invalid value"),
            (r#"{"prompt":"a","token_ids":[1]}"#, "exactly one"),
            ("{}", "exactly one"),
            (r#"{"prompt":"a","deadline_ms":0}"#, "deadline_ms"),
            (r#"{"prompt":"a","priority":"urgent"}"#, "urgent"),
            (r#"{"prompt":"a","model":""}"#, "model"),
            (r#"{"prompt":"a","numerics":"f64"}"#, "numerics"),
            (r#"{"prompt":"a","tenant":"a\nb"}"#, "tenant"),
            (r#"{"prompt":"\ud800"}"#, "hex escape"),
        ] {
            let error = error(body);
            assert!(error.contains(word), "{body}: {error}");
        }
        assert!(Asked::parse(b"{\"prompt\":\"\xff\"}").is_err());
        // Deep nesting ends at the parser's limit, not at the stack's.
        assert!(Asked::parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
