//! One choice: adjusted logits, a cut, noise, the best token.

use proto::Position;
use proto::session::SamplingParams;

use crate::adjust::{Originals, adjust};
use crate::counts::TokenCounts;
use crate::gumbel::GumbelNoise;
use crate::mask::TokenMask;
use crate::parameters::{Checked, ParameterError};
use crate::portable_math::{LANES, exp_block};
use crate::scan::{self, Top};
use crate::truncate::{Cut, CutScratch};

/// Checked parameters of one session. Holds no state: the same call gives the same choice.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: Checked,
    vocab_size: usize,
}

/// Memory reused from call to call; one per thread serves all sessions. It never influences a choice.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    cut: CutScratch,
    originals: Originals,
}

/// A sampled token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Natural logarithm of the sum of the exponentials of the unmodified logits.
    pub logsumexp: f32,
    /// The token.
    pub token: u32,
    /// Natural logarithm of the token's probability under the unmodified logits (no penalty, bias, mask,
    /// temperature or truncation); `-inf` never occurs.
    pub logprob: f32,
    /// Largest minus second largest logit, after penalties, bias and mask, before temperature: by how much
    /// numerics may differ before a greedy choice can flip. Infinite when only one token is left.
    pub margin: f32,
}

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The model produced NaN or plus infinity.
    #[error("the logit of token {token} is {logit}")]
    NotFinite {
        /// The lowest such token.
        token: u32,
        /// Its logit.
        logit: f32,
    },
    /// The row has another length than the vocabulary.
    #[error("{got} logits for a vocabulary of {vocab_size}")]
    LogitCount {
        /// Logits given.
        got: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The mask is for another vocabulary.
    #[error("a mask over {got} tokens for a vocabulary of {vocab_size}")]
    MaskSize {
        /// Tokens of the mask.
        got: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Bias and mask exclude every token.
    #[error("mask and logit_bias leave no token to choose from")]
    NothingLeft,
}

impl Sampler {
    /// A sampler for a model with `vocab_size` tokens.
    pub fn new(params: &SamplingParams, vocab_size: usize) -> Result<Self, ParameterError> {
        Ok(Self { params: Checked::new(params, vocab_size)?, vocab_size })
    }

    /// Chooses the token at `position`. `logits` is one row of the head's output, `[vocab_size]`; `-inf` marks
    /// an impossible token. **The row is overwritten** with the adjusted logits.
    pub fn sample(
        &self,
        logits: &mut [f32],
        history: &TokenCounts,
        position: Position,
        mask: Option<&TokenMask>,
        scratch: &mut Scratch,
    ) -> Result<Choice, SampleError> {
        let vocab_size = self.vocab_size;
        if logits.len() != vocab_size {
            return Err(SampleError::LogitCount { got: logits.len(), vocab_size });
        }
        if let Some(mask) = mask.filter(|m| m.vocab_size() != vocab_size) {
            return Err(SampleError::MaskSize { got: mask.vocab_size(), vocab_size });
        }
        let raw_max = scan::finite_max(logits)?;
        let log_sum = scan::log_sum_exp(logits, raw_max);
        adjust(logits, &self.params, history, &mut scratch.originals);
        if let Some(mask) = mask {
            mask.apply(logits);
        }
        let top = scan::top_two(logits)?;
        let token = match self.params.temperature {
            None => top.token,
            Some(temperature) => self.draw(logits, top, temperature, position, scratch),
        };
        let changed = scratch.originals.iter().find(|(changed, _)| *changed == token);
        let raw = changed.map_or(logits[token as usize], |&(_, original)| original);
        Ok(Choice {
            token,
            logsumexp: (f64::from(raw_max) + log_sum) as f32,
            logprob: (f64::from(raw) - f64::from(raw_max) - log_sum) as f32,
            margin: top.logit - top.second,
        })
    }

    /// Size of the vocabulary that the rows must have.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether the choice is the largest logit, without noise.
    pub fn is_greedy(&self) -> bool {
        self.params.temperature.is_none()
    }

    fn draw(
        &self,
        logits: &[f32],
        top: Top,
        temperature: f32,
        position: Position,
        scratch: &mut Scratch,
    ) -> u32 {
        let cut = self.cut(logits, top.logit, temperature, &mut scratch.cut);
        let noise = GumbelNoise::new(self.params.seed, position.get());
        gumbel_argmax(logits, top, temperature, cut, noise)
    }

    fn cut(&self, logits: &[f32], max: f32, temperature: f32, scratch: &mut CutScratch) -> Cut {
        let mut cut = Cut::KEEP_ALL;
        if let Some(k) = self.params.top_k {
            cut = Cut::top_k(logits, k, scratch);
        }
        if let Some(p) = self.params.top_p {
            cut = cut.top_p(logits, max, temperature, p, scratch);
        }
        if let Some(min_p) = self.params.min_p {
            cut = cut.and(Cut::min_p(max, temperature, min_p));
        }
        cut
    }
}

/// The kept token with the largest `logit / temperature + gumbel`; the lowest one if two are equal.
///
/// With `u` uniform and `e = -ln u >= 1 - u`, a token's score `z - ln e` can only reach the best score `s` if
/// `1 - u <= e^(z - s)`. That test costs a hash and a comparison, so the two logarithms are taken for a handful
/// of tokens only. The test is slack by more than its rounding error, so it never changes the result.
fn gumbel_argmax(logits: &[f32], top: Top, temperature: f32, cut: Cut, noise: GumbelNoise) -> u32 {
    const SLACK: f64 = 1.0 + 1e-3;
    let cold = 1.0 / temperature;
    let score = |logit: f32, token: u32| {
        (f64::from(logit) - f64::from(top.logit)) / f64::from(temperature) + noise.gumbel(token)
    };
    let mut best = top.token;
    let mut best_score = score(top.logit, top.token);
    let mut bound = ((-best_score).exp() * SLACK) as f32;
    cut.for_each_block(logits, |first, block| {
        let mut limits = [0.0; LANES];
        for i in 0..LANES {
            limits[i] = (block[i] - top.logit) * cold;
        }
        exp_block(&mut limits);
        let mut nearest = [0.0; LANES];
        noise.complements_at_least(first, &mut nearest);
        let mut reaches = 0u32;
        for i in 0..LANES {
            reaches |= u32::from(nearest[i] <= limits[i] * bound) << i;
        }
        if reaches == 0 {
            return;
        }
        for (i, &logit) in block.iter().enumerate() {
            let token = first + i as u32;
            if reaches & (1 << i) == 0 || !cut.keeps(logit, token) {
                continue;
            }
            let new = score(logit, token);
            if new > best_score || (new == best_score && token < best) {
                (best, best_score) = (token, new);
                bound = ((-new).exp() * SLACK) as f32;
            }
        }
    });
    best
}

#[cfg(test)]
pub(crate) mod tests;
