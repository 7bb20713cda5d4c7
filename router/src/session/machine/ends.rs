//! How a session ends: whose fault it is, who is told, and which accounts are waited for.

use std::time::Duration;

use proto::session::{Close, Failed};
use proto::status::CloseCode;

use super::{SessionMachine, State};
use crate::session::{Action, Control, Outcome, SessionError};

impl SessionMachine {
    /// A stage gave up. If it names a lost neighbour, that one is to blame; if the request's own time is over, nobody.
    pub(super) fn stage_failed(
        &mut self,
        now: Duration,
        stage: usize,
        failed: Failed,
        actions: &mut Vec<Action>,
    ) {
        if failed.code == CloseCode::Deadline
            && let Some(after) = self.terms.limits.total
            && now + after / CLOCKS_DIFFER + ROUNDING >= after
        {
            return self.fail(now, SessionError::TimedOut { after }, actions);
        }
        let lost = failed.lost.and_then(|lost| self.terms.stages().iter().position(|at| at.node == lost));
        let error = match lost {
            // The loss of a node that is gone is noticed after it has been silent for about a second.
            Some(lost) if lost != stage && self.health[lost].is_heard(now) => SessionError::Parted {
                stage: self.terms.label(lost),
                by: Box::new(self.terms.label(stage)),
                why: words(&failed),
            },
            Some(lost) if lost != stage => {
                let reporter = self.terms.stages()[stage].node.short();
                let why = format!("node {reporter} reports: {}", words(&failed));
                SessionError::Lost { stage: self.terms.label(lost), why }
            }
            _ => SessionError::GaveUp {
                stage: self.terms.label(stage),
                code: failed.code,
                detail: failed.detail,
            },
        };
        self.fail(now, error, actions);
    }

    pub(super) fn link_lost(&mut self, now: Duration, stage: usize, why: String, actions: &mut Vec<Action>) {
        self.gone[stage] = true;
        match self.state {
            State::Opening { .. } | State::Running => {
                let stage = self.terms.label(stage);
                self.fail(now, SessionError::Lost { stage, why }, actions);
            }
            State::Closing { .. } => self.finish_if_accounted(actions),
            State::Waiting | State::Done => {}
        }
    }

    pub(super) fn fail(&mut self, now: Duration, error: SessionError, actions: &mut Vec<Action>) {
        let code = match &error {
            SessionError::Lost { .. }
            | SessionError::Stalled { .. }
            | SessionError::Parted { .. }
            | SessionError::Leaving { .. } => CloseCode::HopLost,
            SessionError::Violation { .. }
            | SessionError::WrongDigest { .. }
            | SessionError::GaveUp { code: CloseCode::Protocol, .. } => CloseCode::Protocol,
            SessionError::ShuttingDown => CloseCode::ShuttingDown,
            // The answer goes on over another route if it can: what the others have of it is of use then.
            SessionError::Refused { .. } | SessionError::Unreachable { .. } | SessionError::GaveUp { .. }
                if self.received + self.terms.generated > 0 && error.avoid().is_some() =>
            {
                CloseCode::HopLost
            }
            SessionError::Refused { .. }
            | SessionError::Unreachable { .. }
            | SessionError::GaveUp { .. }
            | SessionError::BrokenOff { .. }
            | SessionError::TimedOut { .. } => CloseCode::Cancelled,
        };
        self.conclude(now, Outcome::Failed(error), code, actions);
    }

    /// Closes every stage that may know the session. Only the first outcome counts.
    pub(super) fn conclude(
        &mut self,
        now: Duration,
        outcome: Outcome,
        code: CloseCode,
        actions: &mut Vec<Action>,
    ) {
        let first = match self.state {
            // No stage has been asked yet.
            State::Waiting => self.last() + 1,
            State::Opening { next, .. } => next,
            State::Running => 0,
            State::Closing { .. } | State::Done => return,
        };
        for stage in 0..=self.last() {
            if stage < first {
                self.gone[stage] = true;
            } else if !self.gone[stage] {
                let (session, generation) = (self.terms.session, self.terms.generation);
                actions
                    .push(Action::Send { stage, frame: Control::Close(Close { session, generation, code }) });
            }
        }
        self.closed_with = Some(code);
        for stage in self.standbys.open() {
            let (session, generation) = (self.terms.session, self.terms.generation);
            actions.push(Action::Send { stage, frame: Control::Close(Close { session, generation, code }) });
        }
        // A stage that could not be heard will hardly send its account.
        if let Outcome::Failed(error) = &outcome
            && let Some(stage) = error.stage()
        {
            self.gone[stage.stage] = true;
        }
        actions.push(Action::Conclude(outcome));
        self.state = State::Closing { until: now + self.terms.limits.accounts };
        self.finish_if_accounted(actions);
    }

    pub(super) fn finish_if_accounted(&mut self, actions: &mut Vec<Action>) {
        let accounted =
            self.accounts.iter().zip(&self.gone).all(|(account, &gone)| account.is_some() || gone);
        let complete = accounted && !self.standbys.is_asking();
        if matches!(self.state, State::Closing { .. }) && complete {
            self.done(actions);
        }
    }

    pub(super) fn done(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Done;
        actions.push(Action::Done { accounts: self.accounts.clone() });
    }
}

/// Clocks of two machines run equally fast within this part of the time. A stage that calls a deadline passed before
/// that is to blame: it must not be able to end any request as if the client had wanted it.
const CLOCKS_DIFFER: u32 = 100;
/// Deadlines are told in milliseconds, which older routers round down; scheduling adds some.
const ROUNDING: Duration = Duration::from_millis(10);

fn words(failed: &Failed) -> String {
    if failed.detail.is_empty() { failed.code.to_string() } else { failed.detail.clone() }
}
