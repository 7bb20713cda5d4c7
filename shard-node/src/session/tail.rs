//! The tail's part: logits to token, and when the answer ends.

use std::fmt;

use proto::session::{Finish, Sampled};
use proto::status::CloseCode;
use proto::{Added, Position};
use proto_sampling::{SampleError, Scratch, TokenCounts, TokenMask, likeliest};

use super::terms::{TailPart, Terms};

/// What the tail remembers of a session.
#[derive(Debug)]
pub(super) struct Tail {
    part: TailPart,
    counts: TokenCounts,
    generated: u32,
    shape: Option<Box<dyn Shape>>,
}

/// Which tokens the next one may be, and the ones after it. It may work beside the thread that asks.
pub trait Shape: fmt::Debug + Send {
    /// Waits for them, for a bounded time.
    fn allowed(&mut self) -> Result<TokenMask, String>;

    /// This one was chosen.
    fn push(&mut self, token: u32);
}

/// Why the tail can't choose.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChoiceError {
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error("{0}")]
    Shape(String),
}

impl ChoiceError {
    pub(super) const fn code(&self) -> CloseCode {
        match self {
            Self::Sample(_) => CloseCode::Compute,
            Self::Shape(_) => CloseCode::Grammar,
        }
    }
}

impl Tail {
    pub(super) fn new(part: TailPart, shape: Option<Box<dyn Shape>>) -> Self {
        let history = &part.terms.history;
        // `generated` is at most the history's length: checked when the message was decoded.
        let prompt = history.len().saturating_sub(part.terms.generated as usize);
        let mut counts = TokenCounts::from_prompt(&history[..prompt]);
        for &token in &history[prompt..] {
            counts.push_generated(token);
        }
        let generated = part.terms.generated;
        Self { part, counts, generated, shape }
    }

    /// Chooses the token at `position`, the one after the last row applied; with the logarithm of the sum of exponentials.
    pub(super) fn sample(
        &mut self,
        terms: &Terms,
        position: Position,
        logits: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(Sampled, f32), ChoiceError> {
        let top = likeliest(logits, usize::from(self.part.top_logprobs))?;
        let mask =
            self.shape.as_mut().map(|shape| shape.allowed()).transpose().map_err(ChoiceError::Shape)?;
        let choice = self.part.sampler.sample(logits, &self.counts, position, mask.as_ref(), scratch)?;
        self.counts.push_generated(choice.token);
        self.generated = self.generated.saturating_add(1);
        let finish = if self.part.terms.eos.contains(&choice.token) {
            Finish::Eos
        } else if self.generated >= self.part.terms.max_tokens || position.get() >= terms.max_positions {
            Finish::Length
        } else {
            if let Some(shape) = &mut self.shape {
                shape.push(choice.token);
            }
            Finish::No
        };
        let sampled = Sampled {
            session: terms.key.session,
            generation: terms.generation,
            position,
            token: choice.token,
            logprob: choice.logprob,
            margin: choice.margin,
            finish,
            top: Added(top),
        };
        Ok((sampled, choice.logsumexp))
    }
}
