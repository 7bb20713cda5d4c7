//! Whether a stage still lives and gets on, judged by its reports alone: a hung compute thread still acknowledges QUIC
//! packets.

use std::time::Duration;

use proto::Position;
use proto::session::Progress;

use super::{SessionLimits, Watch};

/// What is known of one stage's progress. Times count from the session's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StageHealth {
    /// When the stage was last heard of.
    heard: Duration,
    /// Rows that it has applied.
    applied: Position,
    /// Since when it has had rows to compute without getting on; `None` while it has nothing to do.
    busy_since: Option<Duration>,
    /// Its longest step so far.
    longest_step: Duration,
    /// When it last answered the question whether it lives.
    alive: Duration,
    /// Since when that question is open.
    asked: Option<Duration>,
}

impl StageHealth {
    pub(crate) const fn new(now: Duration) -> Self {
        Self {
            heard: now,
            applied: Position::new(0),
            busy_since: None,
            longest_step: Duration::ZERO,
            alive: now,
            asked: None,
        }
    }

    pub(crate) const fn applied(&self) -> Position {
        self.applied
    }

    /// Any report is a sign of life.
    pub(crate) fn heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// When it is to be asked whether it lives, unless it is being asked: reports wait for steps, that answer does not.
    pub(crate) fn asked_at(&self, watch: Watch) -> Option<Duration> {
        self.asked.is_none().then(|| self.heard.max(self.alive) + watch.silence)
    }

    /// It is asked.
    pub(crate) fn ask(&mut self, now: Duration) {
        self.asked = Some(now);
    }

    /// It answered, or did not in time; `false` if it must be gone.
    pub(crate) fn answered(&mut self, now: Duration, alive: bool) -> bool {
        let asked = self.asked.take();
        if alive {
            self.alive = now;
        }
        alive || asked.is_none_or(|asked| self.heard >= asked)
    }

    /// Whether it reported within the time that a neighbour takes to notice its loss.
    pub(crate) fn is_heard(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) < HEARD
    }

    /// Takes a `Progress`.
    pub(crate) fn progress(&mut self, now: Duration, progress: &Progress) {
        self.heard(now);
        let step = Duration::from_micros(u64::from(progress.step_us));
        self.longest_step = self.longest_step.max(step);
        self.advance(now, progress.applied);
    }

    /// Knows that the stage has applied this many rows.
    pub(crate) fn advance(&mut self, now: Duration, applied: Position) {
        if applied > self.applied {
            self.applied = applied;
            self.busy_since = self.busy_since.map(|_| now);
        }
    }

    /// Says how many rows the stage has been given.
    pub(crate) fn owes(&mut self, now: Duration, given: Position) {
        if given > self.applied {
            self.busy_since.get_or_insert(now);
        } else {
            self.busy_since = None;
        }
    }

    /// The router itself slept for this long: no reproach to the stage.
    pub(crate) fn forgive(&mut self, slept: Duration) {
        self.heard += slept;
        self.alive += slept;
        self.busy_since = self.busy_since.map(|since| since + slept);
    }

    /// When the stage counts as stalled if nothing changes, and why.
    pub(crate) fn deadline(&self, limits: &SessionLimits, prefill: bool) -> (Duration, Stall) {
        let steps = self.longest_step * STEPS;
        let (silence, patience) = if prefill {
            (limits.prefill_silence, limits.prefill_stuck)
        } else {
            (limits.silence, limits.stuck)
        };
        let silent = (self.heard + silence.max(steps), Stall::Silent);
        let stuck = self.busy_since.map(|since| (since + patience.max(steps), Stall::Stuck));
        stuck.into_iter().fold(silent, |first, other| if other.0 < first.0 { other } else { first })
    }
}

/// Five reports; half the idle timeout of a session's connections.
const HEARD: Duration = Duration::from_millis(500);
/// A stage may be silent or stuck for this many of its longest steps.
const STEPS: u32 = 4;

/// In which way a stage is stalled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stall {
    /// Nothing is heard of it.
    Silent,
    /// It is heard of, but its rows do not get computed.
    Stuck,
}
