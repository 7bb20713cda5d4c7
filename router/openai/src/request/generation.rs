//! What every request for an answer says: which model, how to sample, how long, how urgent, how delivered.

use std::time::Duration;

use proto::answer::MAX_TOP_LOGPROBS;
use proto::session::{MAX_LOGIT_BIAS, SamplingParams};
use proto::tensor::NumericsClass;
use proto_text::MAX_STOPS;
use router_plan::ModelRef;
use router_plan::admission::Priority;

use crate::error::{ApiError, ErrorCode, Quote};
use crate::read::{Json, Kind, Object};

/// What is asked for, whatever the endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Generation {
    /// Which model; `None` takes the only one there is.
    pub model: Option<ModelRef>,
    /// The numerics class; `None` takes any.
    pub class: Option<NumericsClass>,
    /// Its place among the tenant's own requests.
    pub priority: Priority,
    /// For the whole answer, waiting included.
    pub deadline: Option<Duration>,
    /// Tokens to generate at most, for each choice; `None` is as many as the context leaves room for.
    pub max_tokens: Option<u32>,
    /// How many answers to each prompt.
    pub n: u32,
    /// How to sample the first choice; see [`Generation::sampling_of`].
    pub sampling: SamplingParams,
    /// The seed is still to be drawn.
    pub draw_seed: bool,
    /// Texts that end the answer; within the bounds of [`proto_text::StopMatcher`].
    pub stop: Vec<String>,
    /// Whether log probabilities are told, and of how many alternatives.
    pub logprobs: Option<u8>,
    /// How it is delivered.
    pub delivery: Delivery,
}

/// How an answer is delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// As one object, when it is complete.
    Whole,
    /// As server-sent events.
    Stream {
        /// A last chunk tells the usage.
        include_usage: bool,
    },
}

impl Generation {
    /// How to sample a choice: each has a seed of its own, so that they differ, and can be had again one by one.
    pub fn sampling_of(&self, choice: u32) -> SamplingParams {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(u64::from(choice));
        sampling
    }

    /// Reads what chat and text completions have in common with the others; what only some of them have is set by them.
    pub(super) fn read(body: &Object<'_, '_>) -> Result<Self, ApiError> {
        let sampling = sampling(body)?;
        let seed = body.read("seed", |json| json.integer(SEED.0..=SEED.1))?;
        Ok(Self {
            model: body.read("model", model)?,
            class: body.read("numerics", |json| {
                json.text()?.parse().map_err(|error: proto::tensor::UnknownClass| json.invalid(error))
            })?,
            priority: body.read("priority", |json| json.word(PRIORITIES))?.unwrap_or_default(),
            deadline: body
                .read("deadline_ms", |json| json.integer(1..=MAX_DEADLINE_MS))?
                .map(|ms| Duration::from_millis(ms as u64)),
            max_tokens: None,
            n: 1,
            // Greedy choices do not depend on it.
            draw_seed: seed.is_none() && sampling.temperature != 0.0,
            // Negative seeds are seeds like others.
            sampling: SamplingParams { seed: seed.unwrap_or(0) as u64, ..sampling },
            stop: body.read("stop", stops)?.unwrap_or_default(),
            logprobs: None,
            delivery: delivery(body)?,
        })
    }

    /// `n`, of chat and text completions.
    pub(super) fn read_choices(&mut self, body: &Object<'_, '_>) -> Result<(), ApiError> {
        if let Some(n) = body.read("n", |json| json.integer(1..=MAX_CHOICES))? {
            self.n = n as u32;
        }
        Ok(())
    }
}

/// A model's name in any of its forms.
pub(super) fn model(json: Json<'_, '_>) -> Result<ModelRef, ApiError> {
    json.text()?.parse().map_err(|error: router_plan::ModelRefError| json.invalid(error))
}

/// A limit on tokens.
pub(super) fn token_limit(body: &Object<'_, '_>, name: &str) -> Result<Option<u32>, ApiError> {
    let limit = body.get(name).map(|json| json.integer(1..=MAX_TOKENS)).transpose()?;
    Ok(limit.map(|limit| limit as u32))
}

/// A number of alternatives whose probability is told.
pub(super) fn alternatives(json: Json<'_, '_>, most: u8) -> Result<u8, ApiError> {
    json.integer(0..=i64::from(most.min(MAX_TOP_LOGPROBS))).map(|number| number as u8)
}

fn sampling(body: &Object<'_, '_>) -> Result<SamplingParams, ApiError> {
    let number = |name, range: (f64, f64), otherwise: f64| -> Result<f32, ApiError> {
        Ok(body.get(name).map_or(Ok(otherwise), |json| json.number(range.0..=range.1))? as f32)
    };
    let top_k = body.read("top_k", |json| json.integer(-1..=MAX_TOP_K))?.unwrap_or(0);
    Ok(SamplingParams {
        // As in OpenAI's API.
        temperature: number("temperature", TEMPERATURE, 1.0)?,
        // vLLM's clients write -1 for all.
        top_k: u32::try_from(top_k).unwrap_or(0),
        top_p: number("top_p", SHARE, 1.0)?,
        min_p: number("min_p", SHARE, 0.0)?,
        repetition_penalty: number("repetition_penalty", REPETITION, 1.0)?,
        presence_penalty: number("presence_penalty", PENALTY, 0.0)?,
        frequency_penalty: number("frequency_penalty", PENALTY, 0.0)?,
        logit_bias: body.read("logit_bias", logit_bias)?.unwrap_or_default(),
        seed: 0,
    })
}

fn logit_bias(json: Json<'_, '_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let entries = json.object(MAX_LOGIT_BIAS)?;
    let bias = entries.iter().map(|(id, value)| {
        let digits = (1..=MAX_ID_DIGITS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
        // One spelling for each id: 7 and 07 would be two biases for one token.
        let plain = digits && (id == "0" || !id.starts_with('0'));
        let token = id.parse::<u32>().ok().filter(|_| plain);
        let token = token.ok_or_else(|| json.invalid(format_args!("{} is no token id", Quote(id))))?;
        Ok((token, value.number(-100.0..=100.0)? as f32))
    });
    bias.collect()
}

fn stops(json: Json<'_, '_>) -> Result<Vec<String>, ApiError> {
    let one = |json: Json<'_, '_>| -> Result<String, ApiError> {
        let stop = json.short_text(MAX_STOP_CHARS)?;
        if stop.is_empty() {
            Err(json.invalid("it is empty and would end every text at once"))
        } else {
            Ok(stop)
        }
    };
    match json.kind() {
        Kind::Text => Ok(vec![one(json)?]),
        Kind::List => json.list(MAX_STOPS)?.iter().map(one).collect(),
        _ => Err(json.wrong_type("a string or a list of strings")),
    }
}

fn delivery(body: &Object<'_, '_>) -> Result<Delivery, ApiError> {
    let stream = body.read("stream", |json| json.boolean())?.unwrap_or(false);
    let Some(options) = body.get("stream_options") else {
        return Ok(if stream { Delivery::Stream { include_usage: false } } else { Delivery::Whole });
    };
    let fields = options.object(MAX_FIELDS)?;
    fields.only(&["include_usage", "include_obfuscation", "continuous_usage_stats"])?;
    let include_usage = fields.read("include_usage", |json| json.boolean())?.unwrap_or(false);
    // Nothing is obfuscated and usage comes once: asking for neither is asking for what there is.
    for name in ["include_obfuscation", "continuous_usage_stats"] {
        fields.get(name).map(|json| json.boolean()).transpose()?;
    }
    if !stream {
        return Err(options.error(ErrorCode::Conflict, "it is for streams; set `stream` or leave it out"));
    }
    Ok(Delivery::Stream { include_usage })
}

/// Ranges, shared with the `OpenAPI` document.
pub(crate) const TEMPERATURE: (f64, f64) = (0.0, 2.0);
/// Of `top_p` and `min_p`.
pub(crate) const SHARE: (f64, f64) = (0.0, 1.0);
/// Of the two penalties of OpenAI's API.
pub(crate) const PENALTY: (f64, f64) = (-2.0, 2.0);
/// The sampler's own: far outside what leaves a text readable. 2^-6, so that f32 has it exactly.
pub(crate) const REPETITION: (f64, f64) = (0.015_625, 100.0);
/// Negative ones are taken as the bits of an unsigned one.
pub(crate) const SEED: (i64, i64) = (i64::MIN, i64::MAX);
/// Beyond every vocabulary: all tokens.
pub(crate) const MAX_TOP_K: i64 = 1 << 22;
/// Beyond every context: as many as fit.
pub(crate) const MAX_TOKENS: i64 = i32::MAX as i64;
/// Each is a session of its own.
pub(crate) const MAX_CHOICES: i64 = 16;
/// A deadline beyond a day is a mistake of units.
pub(crate) const MAX_DEADLINE_MS: i64 = 24 * 3600 * 1000;
/// A character has four bytes at most and a stop string 1,024.
pub(crate) const MAX_STOP_CHARS: usize = 256;
/// No vocabulary has as many entries.
pub(crate) const MAX_ID_DIGITS: usize = 9;
/// The words of `priority`.
pub(crate) const PRIORITIES: &[(&str, Priority)] =
    &[("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)];
/// Fields of a small object: more than any has, so that an unknown one is told by its name.
pub(super) const MAX_FIELDS: usize = 32;
