//! A session's tokens with their text, piece by piece: what every front end of the router reads.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use proto_text::StopError;
use router_plan::Route;
use tokio::time::Instant;

use super::GenerateError;
use super::answer::AnswerText;
use super::resume::{Resume, Resumed, Resuming};
use crate::driver::{Session, SessionEnd, TimedToken};
use crate::metrics::RouterMetrics;
use crate::model::Model;
use crate::session::{FinishReason, Outcome, SessionError};

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
    begun: Instant,
    /// From the first session's start to the present one's.
    since_begun: Duration,
    /// All tokens so far.
    came: Vec<u32>,
    /// Positions of the prompt that the first session reused, once there is another one.
    reused: Option<u32>,
    resume: Option<Box<dyn Resume>>,
    breakage: Option<Breakage>,
    broken_off: Option<SessionError>,
    /// Its reader gave up: no other route is looked for.
    cancelled: bool,
}

/// The pipeline broke and the next token has not come.
struct Breakage {
    noticed: Instant,
    lost: SessionError,
    /// `None` once there is another route.
    resuming: Option<Resuming>,
    /// Routes tried since the last token.
    tries: u32,
}

impl fmt::Debug for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breakage")
            .field("lost", &self.lost)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}

/// A part of an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// A token came, and with it this text (often none, as stop strings and half characters are held back).
    Token(TimedToken, String),
    /// The end of the text that was held back.
    Rest(String),
    /// A stage was lost or is about to leave; the answer goes on over this route, behind the tokens that have come.
    Moved(Box<(SessionError, Route)>),
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
        Ok(Self {
            session,
            text,
            eos,
            metrics,
            last: None,
            finished: false,
            begun: Instant::now(),
            since_begun: Duration::ZERO,
            came: Vec::new(),
            reused: None,
            resume: None,
            breakage: None,
            broken_off: None,
            cancelled: false,
        })
    }

    /// From its first token on the answer goes on over other routes when its pipeline breaks. Without this it ends.
    pub fn resume_by(&mut self, resume: impl Resume + 'static) {
        self.resume = Some(Box::new(resume));
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
            if let Some(moved) = ready!(self.poll_resumed(context)) {
                return Poll::Ready(Ok(Some(moved)));
            }
            if let Some(moved) = self.hand_over() {
                return Poll::Ready(Ok(Some(moved)));
            }
            let Some(mut token) = ready!(self.session.poll_next(context)) else {
                if self.broken_off.is_none() && self.look_elsewhere() {
                    continue;
                }
                self.finished = true;
                let rest = self.text.finish()?;
                return Poll::Ready(Ok((!rest.is_empty()).then_some(Piece::Rest(rest))));
            };
            if self.text.stopped() {
                continue; // Overshoot: came before the nodes heard of the end.
            }
            if let Some(breakage) = self.breakage.take() {
                self.metrics.resumed(breakage.noticed.elapsed());
            }
            token.at += self.since_begun;
            self.came.push(token.token.token);
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

    /// The move to another route, if a node of the present one is about to leave.
    fn hand_over(&mut self) -> Option<Piece> {
        let answering =
            !self.cancelled && self.breakage.is_none() && self.broken_off.is_none() && !self.came.is_empty();
        // Its last token may be here before the word that it was the last.
        let whole = self.came.last().is_some_and(|last| self.eos.contains(last));
        if !answering || whole || self.text.stopped() || self.session.outcome().is_some() {
            return None;
        }
        let (leaving, resumed) = self.resume.as_mut()?.hand_over(&self.came)?;
        tracing::info!(why = %leaving, tokens = self.came.len(), "an answer goes on elsewhere");
        self.metrics.left();
        self.session.superseded();
        Some(self.moved(leaving, resumed))
    }

    fn moved(&mut self, why: SessionError, Resumed { session, route, taken_over }: Resumed) -> Piece {
        if taken_over {
            self.metrics.taken_over();
        }
        self.reused = Some(self.reused());
        self.session = session;
        self.since_begun = self.begun.elapsed();
        Piece::Moved(Box::new((why, route)))
    }

    /// Begins to look for another route, if the session has ended by a stage's fault and that may help.
    fn look_elsewhere(&mut self) -> bool {
        let (Some(Outcome::Failed(lost)), Some(resume)) = (self.session.outcome(), &mut self.resume) else {
            return false;
        };
        if self.cancelled || self.came.is_empty() || self.text.stopped() || lost.avoid().is_none() {
            return false;
        }
        let lost = lost.clone();
        let (noticed, tries) = match self.breakage.take() {
            Some(before) => (before.noticed, before.tries + 1),
            None => (Instant::now(), 1),
        };
        if tries > TRIES {
            self.break_off(lost, format!("{TRIES} routes were tried"));
            return false;
        }
        tracing::info!(error = %lost, tokens = self.came.len(), "an answer broke; it goes on elsewhere if it can");
        let resuming = Some(resume.resume(&lost, &self.came));
        self.breakage = Some(Breakage { noticed, lost, resuming, tries });
        true
    }

    /// The move to another route, once there is one; `None` when there is nothing to wait for.
    fn poll_resumed(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        let Some(breakage) = &mut self.breakage else { return Poll::Ready(None) };
        let Some(resuming) = &mut breakage.resuming else { return Poll::Ready(None) };
        let resumed = ready!(resuming.as_mut().poll(context));
        breakage.resuming = None;
        let lost = breakage.lost.clone();
        match resumed {
            Ok(resumed) => Poll::Ready(Some(self.moved(lost, resumed))),
            Err(why) => {
                self.break_off(lost, why);
                Poll::Ready(None)
            }
        }
    }

    fn break_off(&mut self, lost: SessionError, why: String) {
        self.metrics.broken_off();
        self.breakage = None;
        self.broken_off = Some(SessionError::BrokenOff { lost: Box::new(lost), why });
    }

    /// How the answer ended; there once [`AnswerStream::next`] has given `None`.
    pub fn outcome(&self) -> Option<Outcome> {
        if let Some(error) = &self.broken_off {
            return Some(Outcome::Failed(error.clone()));
        }
        self.session.outcome().map(|outcome| judged(outcome, self.text.stopped(), self.cancelled))
    }

    /// Tokens of the prompt that no stage had to compute; there once a token came.
    pub fn reused(&self) -> u32 {
        self.reused.unwrap_or_else(|| self.session.reused())
    }

    /// Whether nodes may have computed more than was given out: they end an answer themselves, except at a stop string.
    pub const fn may_have_waste(&self) -> bool {
        self.text.stopped()
    }

    /// As [`Session::poll_end`].
    pub fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<SessionEnd> {
        self.session.poll_end(context)
    }

    /// Gives up, even if the pipeline has broken and the answer would go on over another one.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        drop(self.breakage.take_if(|breakage| breakage.resuming.is_some()));
        self.session.cancel();
    }

    /// Waits for the end and the stages' accounts; gives the text too.
    pub async fn end(self) -> (String, SessionEnd) {
        let (stopped, cancelled) = (self.text.stopped(), self.cancelled);
        let mut end = self.session.end().await;
        end.outcome = match self.broken_off {
            Some(error) => Outcome::Failed(error),
            None => judged(&end.outcome, stopped, cancelled),
        };
        if self.reused.is_some() {
            // Of another session than the one that the first token came from.
            end.prompt_sent = None;
        }
        (self.text.into_text(), end)
    }
}

/// Routes tried for an answer until its next token comes.
pub(super) const TRIES: u32 = 4;

/// With a stop string found the answer is whole, however the pipeline ended after it; one that was given up did not fail.
fn judged(outcome: &Outcome, stopped: bool, cancelled: bool) -> Outcome {
    match outcome {
        Outcome::Cancelled => Outcome::Cancelled,
        _ if stopped => Outcome::Finished(FinishReason::Stop),
        Outcome::Failed(_) if cancelled => Outcome::Cancelled,
        outcome => outcome.clone(),
    }
}
