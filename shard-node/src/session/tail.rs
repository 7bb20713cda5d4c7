//! The tail's part: logits to token, and when the answer ends.

use proto::Position;
use proto::session::{Finish, Sampled};
use proto_sampling::{SampleError, Scratch, TokenCounts};

use super::terms::{TailPart, Terms};

/// What the tail remembers of a session.
#[derive(Debug)]
pub(super) struct Tail {
    part: TailPart,
    counts: TokenCounts,
    generated: u32,
}

impl Tail {
    pub(super) fn new(part: TailPart) -> Self {
        let history = &part.terms.history;
        // `generated` is at most the history's length: checked when the message was decoded.
        let prompt = history.len().saturating_sub(part.terms.generated as usize);
        let mut counts = TokenCounts::from_prompt(&history[..prompt]);
        for &token in &history[prompt..] {
            counts.push_generated(token);
        }
        let generated = part.terms.generated;
        Self { part, counts, generated }
    }

    /// Chooses the token at `position`, the one after the last row applied.
    pub(super) fn sample(
        &mut self,
        terms: &Terms,
        position: Position,
        logits: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<Sampled, SampleError> {
        let choice = self.part.sampler.sample(logits, &self.counts, position, None, scratch)?;
        self.counts.push_generated(choice.token);
        self.generated = self.generated.saturating_add(1);
        let finish = if self.part.terms.eos.contains(&choice.token) {
            Finish::Eos
        } else if self.generated >= self.part.terms.max_tokens || position.get() >= terms.max_positions {
            Finish::Length
        } else {
            Finish::No
        };
        Ok(Sampled {
            session: terms.key.session,
            generation: terms.generation,
            position,
            token: choice.token,
            logprob: choice.logprob,
            margin: choice.margin,
            finish,
        })
    }
}
