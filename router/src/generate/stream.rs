//! A session's tokens with their text, piece by piece: what every front end of the router reads.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proto_text::StopError;

use super::GenerateError;
use super::answer::AnswerText;
use crate::driver::{Session, SessionEnd, TimedToken};
use crate::metrics::RouterMetrics;
use crate::model::Model;
use crate::session::{FinishReason, Outcome};

/// A growing answer. Dropping it cancels the session.
#[derive(Debug)]
pub struct AnswerStream {
    session: Session,
    text: AnswerText,
    eos: Vec<u32>,
    metrics: RouterMetrics,
    /// When the last token came.
    last: Option<Duration>,
    finished: bool,
}

/// A part of an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// A token came, and with it this text (often none, as stop strings and half characters are held back).
    Token(TimedToken, String),
    /// The end of the text that was held back.
    Rest(String),
}

impl AnswerStream {
    /// Reads `session`, which was started for `model`; the text ends before any of `stops`.
    pub fn new(
        session: Session,
        model: &Model,
        stops: &[String],
        metrics: RouterMetrics,
    ) -> Result<Self, StopError> {
        let text = AnswerText::new(model.tokenizer().cloned(), stops)?;
        let eos = model.manifest().eos.clone();
        Ok(Self { session, text, eos, metrics, last: None, finished: false })
    }

    /// Special tokens with these contents are shown as text: others stand for none.
    pub fn show(&mut self, markers: &[&str]) {
        self.text.show(markers);
    }

    /// The next piece; `None` after the last one. Reading extends the credit of the pipeline.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Piece>, GenerateError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`AnswerStream::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Piece>, GenerateError>> {
        if self.finished {
            return Poll::Ready(Ok(None));
        }
        loop {
            let Some(token) = ready!(self.session.poll_next(context)) else {
                self.finished = true;
                let rest = self.text.finish()?;
                return Poll::Ready(Ok((!rest.is_empty()).then_some(Piece::Rest(rest))));
            };
            if self.text.stopped() {
                continue; // Overshoot: came before the nodes heard of the end.
            }
            match self.last {
                None => self.metrics.first_token(token.at),
                Some(last) => self.metrics.next_token(token.at.saturating_sub(last)),
            }
            self.last = Some(token.at);
            let id = token.token.token;
            let text = if self.eos.contains(&id) { String::new() } else { self.text.push(id)? };
            if self.text.stopped() {
                self.session.satisfied();
            }
            return Poll::Ready(Ok(Some(Piece::Token(token, text))));
        }
    }

    /// How the answer ended; there once [`AnswerStream::next`] has given `None`.
    pub fn outcome(&self) -> Option<Outcome> {
        self.session.outcome().map(|outcome| judged(outcome, self.text.stopped()))
    }

    /// Tokens of the prompt that no stage had to compute; there once a token came.
    pub fn reused(&self) -> u32 {
        self.session.reused()
    }

    /// Whether nodes may have computed more than was given out: they end an answer themselves, except at a stop string.
    pub const fn may_have_waste(&self) -> bool {
        self.text.stopped()
    }

    /// As [`Session::poll_end`].
    pub fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<SessionEnd> {
        self.session.poll_end(context)
    }

    /// Gives up.
    pub fn cancel(&self) {
        self.session.cancel();
    }

    /// Waits for the end and the stages' accounts; gives the text too.
    pub async fn end(self) -> (String, SessionEnd) {
        let stopped = self.text.stopped();
        let mut end = self.session.end().await;
        end.outcome = judged(&end.outcome, stopped);
        (self.text.into_text(), end)
    }
}

/// With a stop string found the answer is whole, however the pipeline ended after it.
fn judged(outcome: &Outcome, stopped: bool) -> Outcome {
    if stopped && !matches!(outcome, Outcome::Cancelled) {
        Outcome::Finished(FinishReason::Stop)
    } else {
        outcome.clone()
    }
}
