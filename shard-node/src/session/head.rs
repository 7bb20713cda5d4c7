//! Stage 0's part: which sampled token is started, and how far it may run ahead of the router.

use proto::Position;
use proto::session::{Finish, Sampled};

use super::inbox::{Arrival, Violation};

/// The ring's brake. Nothing runs before the first credit but the prompt.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// The prompt came.
    pub(super) prompted: bool,
    run_until: Position,
    held: Option<NextRow>,
    finished: bool,
}

/// A token whose row is to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NextRow {
    pub(super) position: Position,
    pub(super) token: u32,
    pub(super) arrival: Option<Arrival>,
}

impl Head {
    /// The row to start now, if the answer goes on and credit reaches it. `next` is the position after the last row
    /// started.
    pub(super) fn on_sampled(
        &mut self,
        sampled: &Sampled,
        next: Position,
        arrival: Option<Arrival>,
    ) -> Result<Option<NextRow>, Violation> {
        let position = sampled.position;
        if position < next || self.finished || self.held.is_some_and(|held| held.position == position) {
            return Ok(None);
        }
        if position > next {
            return Err(Violation::Gap { expected: next, got: position });
        }
        if sampled.finish != Finish::No {
            self.finished = true;
            return Ok(None);
        }
        let row = NextRow { position, token: sampled.token, arrival };
        if position < self.run_until {
            return Ok(Some(row));
        }
        self.held = Some(row);
        Ok(None)
    }

    /// Credit never shrinks: an older frame that comes late takes nothing back.
    pub(super) fn on_credit(&mut self, run_until: Position) -> Option<NextRow> {
        self.run_until = self.run_until.max(run_until);
        self.held.take_if(|held| held.position < self.run_until)
    }
}
