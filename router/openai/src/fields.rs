//! What every endpoint that generates shares, from the fields as they are written.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::session::{MAX_LOGIT_BIAS, SamplingParams};
use proto::tensor::NumericsClass;
use proto_text::MAX_STOPS;
use router_plan::ModelRef;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::ApiError;
use crate::list::Texts;

/// What is asked for, whatever the prompt.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// Which model.
    pub model: ModelRef,
    /// The numerics class; `None` takes any.
    pub class: Option<NumericsClass>,
    /// Its place among the tenant's own requests.
    pub urgency: Urgency,
    /// For the whole answer, waiting included.
    pub deadline: Option<Duration>,
    /// Answers, at least 1.
    pub choices: u32,
    /// Tokens of each answer at most; `None` for as many as fit.
    pub max_tokens: Option<u32>,
    /// How to sample; the seed is that of the first answer, if one was given.
    pub sampling: SamplingParams,
    /// Whether the seed was given.
    pub seeded: bool,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Probabilities are told, with so many alternatives.
    pub logprobs: Option<u8>,
    /// Piece by piece, or at once.
    pub stream: bool,
    /// A stream ends with what it took.
    pub include_usage: bool,
}

/// A request's place among those of its tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// After the others.
    Low,
    /// As it comes.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// The shared fields as they are written.
#[derive(Default, Debug)]
pub(crate) struct Written {
    pub(crate) model: Option<String>,
    pub(crate) numerics: Option<String>,
    pub(crate) priority: Option<Urgency>,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) n: Option<u32>,
    /// By name, for the error.
    pub(crate) max_tokens: [(&'static str, Option<u32>); 2],
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Texts<MAX_STOPS>>,
    pub(crate) logprobs: Option<u8>,
    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<StreamOptions>,
}

#[derive(Deserialize, Debug, Default, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    pub(crate) include_usage: bool,
    /// Padding against traffic analysis, which this router does not offer.
    #[serde(default, rename = "include_obfuscation")]
    _include_obfuscation: Option<IgnoredAny>,
}

/// Answers to one request.
const MAX_CHOICES: u32 = 16;
/// A deadline beyond this is a mistake of units.
const MAX_DEADLINE_MS: u64 = 24 * 3600 * 1000;

/// Reads a body into its fields. Errors name the field by its path, and an unknown one by the nearest known.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8], known: &[&str]) -> Result<T, ApiError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        ApiError::invalid(None, "invalid_json", format_args!("the body is no UTF-8 from byte {at} on"))
    })?;
    // A list of values in the order of the fields would be read as well.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(ApiError::invalid(None, "invalid_json", "the body is no JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        unreadable(&path, &error.into_inner(), known)
    })?;
    reader.end().map_err(|error| unreadable(".", &error, known))?;
    Ok(parsed)
}

fn unreadable(path: &str, error: &serde_json::Error, known: &[&str]) -> ApiError {
    let said = error.to_string();
    if !error.is_data() {
        return ApiError::invalid(None, "invalid_json", format_args!("the body is no JSON: {said}"));
    }
    if let Some(name) = said.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        let near = nearest(name, known).map(|near| format!("; `{near}` is known")).unwrap_or_default();
        let param = if path == "." || path == name { name.to_owned() } else { path.to_owned() };
        let name: String = name.chars().take(64).collect();
        let message = format!("there is no parameter `{name}`{near}");
        return ApiError::invalid(param.chars().take(128).collect::<String>(), "unknown_parameter", message);
    }
    if path == "." {
        return ApiError::invalid(None, "invalid_value", said);
    }
    let param: String = path.chars().take(128).collect();
    ApiError::invalid(param.clone(), "invalid_type", format_args!("`{param}`: {said}"))
}

/// The known name with the fewest edits, if they are few.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let edits = |other: &&&str| distance(name, other);
    known.iter().min_by_key(edits).filter(|other| distance(name, other) <= 3).copied()
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl Written {
    pub(crate) fn check(self, most_logprobs: u8) -> Result<Asked, ApiError> {
        let missing = || ApiError::invalid("model".to_owned(), "missing_parameter", "`model` is needed: GET /v1/models lists them");
        let model = self.model.ok_or_else(missing)?;
        let model = model.parse::<ModelRef>().map_err(|error| ApiError::value("model", error))?;
        let class = self.numerics.map(|name| name.parse::<NumericsClass>()).transpose();
        let class = class.map_err(|error| ApiError::value("numerics", error))?;
        let deadline = match self.deadline_ms {
            Some(ms) if !(1..=MAX_DEADLINE_MS).contains(&ms) => {
                return Err(ApiError::value("deadline_ms", format_args!("{ms} is not within 1 to {MAX_DEADLINE_MS}")));
            }
            ms => ms.map(Duration::from_millis),
        };
        let choices = self.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&choices) {
            return Err(ApiError::value("n", format_args!("{choices} is not within 1 to {MAX_CHOICES}")));
        }
        let max_tokens = one_of(self.max_tokens)?;
        if let Some(told) = self.logprobs.filter(|&told| told > most_logprobs) {
            return Err(ApiError::value("top_logprobs", format_args!("{told} is over {most_logprobs}")));
        }
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(ApiError::value("stream_options", "only with `stream`: true"));
        }
        let sampling = SamplingParams {
            temperature: within("temperature", self.temperature, 1.0, 0.0, 2.0)?,
            top_k: top_k(self.top_k)?,
            top_p: within("top_p", self.top_p, 1.0, 0.0, 1.0)?,
            min_p: within("min_p", self.min_p, 0.0, 0.0, 1.0)?,
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, 1.0, 0.01, 10.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, 0.0, -2.0, 2.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, 0.0, -2.0, 2.0)?,
            logit_bias: bias(self.logit_bias.unwrap_or_default())?,
            seed: self.seed.unwrap_or_default().cast_unsigned(),
        };
        Ok(Asked {
            model,
            class,
            urgency: self.priority.unwrap_or_default(),
            deadline,
            choices,
            max_tokens,
            sampling,
            seeded: self.seed.is_some(),
            stop: self.stop.map(|stop| stop.0).unwrap_or_default(),
            logprobs: self.logprobs,
            stream,
            include_usage: self.stream_options.is_some_and(|options| options.include_usage),
        })
    }
}

/// Two names for one number.
fn one_of([(old, a), (new, b)]: [(&'static str, Option<u32>); 2]) -> Result<Option<u32>, ApiError> {
    if let (Some(a), Some(b)) = (a, b)
        && a != b
    {
        return Err(ApiError::value(new, format_args!("it is {b}, but `{old}` is {a}: give one of them")));
    }
    for (name, given) in [(old, a), (new, b)] {
        if given == Some(0) {
            return Err(ApiError::value(name, "at least 1"));
        }
    }
    Ok(b.or(a))
}

fn within(name: &str, given: Option<f32>, usual: f32, least: f32, most: f32) -> Result<f32, ApiError> {
    let value = given.unwrap_or(usual);
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::value(name, format_args!("{value} is not within {least} to {most}")))
}

/// 0 and -1 both are in use for "all".
fn top_k(given: Option<i64>) -> Result<u32, ApiError> {
    match given {
        None | Some(-1) => Ok(0),
        Some(k) => u32::try_from(k).map_err(|_| ApiError::value("top_k", format_args!("{k} is not -1 to {}", u32::MAX))),
    }
}

fn bias(given: BTreeMap<String, f32>) -> Result<Vec<(u32, f32)>, ApiError> {
    if given.len() > MAX_LOGIT_BIAS {
        return Err(ApiError::value("logit_bias", format_args!("{} entries, at most {MAX_LOGIT_BIAS}", given.len())));
    }
    let mut bias = Vec::with_capacity(given.len());
    for (id, by) in given {
        let token = id.parse::<u32>().map_err(|_| ApiError::value("logit_bias", format_args!("{id:?} is no token id")))?;
        if !(-100.0..=100.0).contains(&by) {
            return Err(ApiError::value("logit_bias", format_args!("{by} is not within -100 to 100")));
        }
        bias.push((token, by));
    }
    Ok(bias)
}
