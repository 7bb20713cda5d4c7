//! How far stage 0 may run ahead of what the client has read.

use proto::Position;

/// The credit of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CreditLine {
    first: Position,
    ahead: u32,
    granted: Position,
}

impl CreditLine {
    /// `first` is the position of the first token to be sampled. Nothing but the prompt runs before the first grant.
    pub(crate) const fn new(first: Position, ahead: u32) -> Self {
        Self { first, ahead: if ahead == 0 { 1 } else { ahead }, granted: first }
    }

    /// No row at or beyond this position may be started.
    pub(crate) const fn granted(&self) -> Position {
        self.granted
    }

    /// The last position a token may have: it is sampled from the row before it.
    pub(crate) const fn last_token(&self) -> Position {
        self.granted
    }

    /// The client has read `consumed` tokens. A new grant, if enough has changed to be worth a frame.
    pub(crate) fn consumed(&mut self, consumed: u32) -> Option<Position> {
        let target = self.first.plus(consumed).plus(self.ahead);
        let worth = (self.ahead / GRANTS_PER_LINE).max(1);
        (target.get() >= self.granted.get().saturating_add(worth)).then(|| {
            self.granted = target;
            target
        })
    }
}

/// A line is extended in at least this many grants: one frame for 16 tokens at the default of 64.
const GRANTS_PER_LINE: u32 = 4;
