//! Checks sampling parameters once and keeps them in the form the sampler uses.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use proto::session::{MAX_LOGIT_BIAS, SamplingParams};

/// Parameters inside their ranges; "off" is an absent value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checked {
    /// Absent: greedy.
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: f32,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: u64,
}

/// Why sampling parameters are refused. Each message names the parameter, what was given and what is allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParameterError {
    /// A number outside its range, or not a number.
    #[error("{name} is {value}, but it must lie between {low} and {high}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f32,
        /// Smallest allowed value.
        low: f32,
        /// Largest allowed value.
        high: f32,
    },
    /// A bias for a token that the model does not have.
    #[error("logit_bias names token {token}, but the vocabulary has {vocab_size}")]
    BiasToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Two biases for one token.
    #[error("logit_bias names token {token} twice")]
    BiasTwice {
        /// The token.
        token: u32,
    },
    /// More biases than a session may carry.
    #[error("logit_bias has {count} entries, but at most {limit} are allowed")]
    TooManyBiases {
        /// Entries given.
        count: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// A vocabulary that is empty or larger than any model's.
    #[error("a vocabulary of {vocab_size} tokens can't be sampled from; it must have 1 to {limit}")]
    VocabularySize {
        /// Size given.
        vocab_size: usize,
        /// Largest allowed size.
        limit: usize,
    },
}

impl Checked {
    pub(crate) fn new(params: &SamplingParams, vocab_size: usize) -> Result<Self, ParameterError> {
        if !(1..=MAX_VOCABULARY).contains(&vocab_size) {
            return Err(ParameterError::VocabularySize { vocab_size, limit: MAX_VOCABULARY });
        }
        let temperature = within("temperature", params.temperature, TEMPERATURE)?;
        let top_p = within("top_p", params.top_p, 0.0..=1.0)?;
        let min_p = within("min_p", params.min_p, 0.0..=1.0)?;
        Ok(Self {
            temperature: (temperature >= GREEDY_BELOW).then_some(temperature),
            top_k: (params.top_k > 0 && (params.top_k as usize) < vocab_size)
                .then_some(params.top_k as usize),
            top_p: (top_p < 1.0).then_some(top_p),
            min_p: (min_p > 0.0).then_some(min_p),
            repetition_penalty: within("repetition_penalty", params.repetition_penalty, REPETITION)?,
            presence_penalty: within("presence_penalty", params.presence_penalty, -2.0..=2.0)?,
            frequency_penalty: within("frequency_penalty", params.frequency_penalty, -2.0..=2.0)?,
            logit_bias: checked_bias(&params.logit_bias, vocab_size)?,
            seed: params.seed,
        })
    }
}

fn checked_bias(bias: &[(u32, f32)], vocab_size: usize) -> Result<Vec<(u32, f32)>, ParameterError> {
    if bias.len() > MAX_LOGIT_BIAS {
        return Err(ParameterError::TooManyBiases { count: bias.len(), limit: MAX_LOGIT_BIAS });
    }
    let mut seen = HashSet::with_capacity(bias.len());
    for &(token, value) in bias {
        if token as usize >= vocab_size {
            return Err(ParameterError::BiasToken { token, vocab_size });
        }
        if !seen.insert(token) {
            return Err(ParameterError::BiasTwice { token });
        }
        within("logit_bias", value, -100.0..=100.0)?;
    }
    Ok(bias.to_vec())
}

fn within(name: &'static str, value: f32, range: RangeInclusive<f32>) -> Result<f32, ParameterError> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(ParameterError::OutOfRange { name, value, low: *range.start(), high: *range.end() })
}

/// Twenty times the hottest setting of the usual APIs; beyond it the choice is uniform anyway.
const TEMPERATURE: RangeInclusive<f32> = 0.0..=100.0;

/// Colder than this, two logits a hundredth apart differ by a factor of e^100: the greedy choice, and 1 / t
/// stays small enough that the single-precision weights keep their accuracy.
const GREEDY_BELOW: f32 = 1e-4;

/// The penalty divides; 1 is off. The ends are far outside what leaves a text readable (0.8 to 1.5).
const REPETITION: RangeInclusive<f32> = 0.01..=100.0;

/// Sixteen times the largest vocabulary in use (262,144); keeps sums of 2^40 per token inside 64 bits.
const MAX_VOCABULARY: usize = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::tests::params;

    #[test]
    fn errors_name_the_parameter_and_its_range() {
        type Case = (fn(&mut SamplingParams), &'static str);
        let cases: [Case; 10] = [
            (|p| p.temperature = -0.1, "temperature is -0.1, but it must lie between 0 and 100"),
            (|p| p.temperature = f32::NAN, "temperature is NaN"),
            (|p| p.top_p = 1.01, "top_p is 1.01"),
            (|p| p.min_p = -1.0, "min_p is -1"),
            (|p| p.repetition_penalty = 0.0, "repetition_penalty is 0,"),
            (|p| p.presence_penalty = 2.5, "presence_penalty is 2.5"),
            (|p| p.frequency_penalty = f32::INFINITY, "frequency_penalty is inf"),
            (|p| p.logit_bias = vec![(1, 101.0)], "logit_bias is 101"),
            (|p| p.logit_bias = vec![(10, 1.0)], "logit_bias names token 10, but the vocabulary has 10"),
            (|p| p.logit_bias = vec![(1, 1.0), (1, 2.0)], "logit_bias names token 1 twice"),
        ];
        for (spoil, message) in cases {
            let mut params = params(1.0);
            spoil(&mut params);
            let got = Checked::new(&params, 10).unwrap_err().to_string();
            assert!(got.contains(message), "{got}");
        }
        assert!(matches!(Checked::new(&params(1.0), 0), Err(ParameterError::VocabularySize { .. })));
        let many = SamplingParams { logit_bias: vec![(0, 0.0); 1025], ..params(1.0) };
        assert!(matches!(Checked::new(&many, 10), Err(ParameterError::TooManyBiases { .. })));
    }
}
