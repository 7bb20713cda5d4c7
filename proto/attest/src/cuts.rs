//! Where receipts end, so that both ends of a hop cut alike without a word; and which rows of a cut are whose.
//!
//! ```text
//! rows      0 ........ 256 ........ 512 .. known ... +32 ... +64 ...
//! windows   [ prefill )[ prefill  )[ prefill )[ decode )[ decode )
//! ```
//! `known` rows are prompt and forced tokens, which the open names. A hop signs one receipt for each window in which it
//! received or sent rows of this generation, when the window is full or the generation ends.
//!
//! By PROTOCOL 3.5 a hop computes rows from where it goes on, and sends rows from where the next one does. So of a
//! window it covers two ranges with one end: `[start, end)` received and computed, `[sent_start, end)` sent. Rows in
//! `[sent_start, start)` are kept ones sent again; rows in `[start, sent_start)` were computed and not sent.

/// Rows of a prefill window: 8 KiB of leaves at a ragged end, and one receipt for about a chunk.
pub const PREFILL_ROWS: u32 = 256;
/// Rows of a decode window.
pub const DECODE_ROWS: u32 = 32;

/// What the rows of a receipt are, and are paid as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Rows of known tokens.
    Prefill = 0,
    /// Rows of tokens that the tail had just chosen.
    Decode = 1,
}

/// Rows of one receipt at most: positions `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// First position.
    pub start: u32,
    /// One past the last position.
    pub end: u32,
    /// What the rows are.
    pub phase: Phase,
}

/// The windows of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cuts {
    known: u32,
}

/// What a hop has to do in a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HopRows {
    /// The first row that it computes; the ones before it has kept.
    pub computes_from: u32,
    /// The first row that it sends.
    pub sends_from: u32,
}

/// Rows of a receipt: `[start, end)` received and computed, `[sent_start, end)` sent. Either may be empty, not both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Covered {
    /// First row received and computed.
    pub start: u32,
    /// First row sent.
    pub sent_start: u32,
    /// One past the last row.
    pub end: u32,
}

impl Cuts {
    /// The windows of a generation with `known` rows of prompt and forced tokens.
    pub const fn new(known: u32) -> Self {
        Self { known }
    }

    /// The window that holds `position`.
    pub const fn window(self, position: u32) -> Window {
        if position < self.known {
            let start = position - position % PREFILL_ROWS;
            let end = start.saturating_add(PREFILL_ROWS);
            let end = if end < self.known { end } else { self.known };
            Window { start, end, phase: Phase::Prefill }
        } else {
            let start = position - (position - self.known) % DECODE_ROWS;
            Window { start, end: start.saturating_add(DECODE_ROWS), phase: Phase::Decode }
        }
    }
}

impl HopRows {
    /// The first row that it computes or sends.
    pub const fn first(self) -> u32 {
        if self.computes_from < self.sends_from { self.computes_from } else { self.sends_from }
    }

    /// What a receipt over `window` covers that ends at `end`; `None` if that is nothing.
    pub fn covered(self, window: Window, end: u32) -> Option<Covered> {
        if end <= window.start || end > window.end || end <= self.first() {
            return None;
        }
        let within = |from: u32| from.clamp(window.start, end);
        Some(Covered { start: within(self.computes_from), sent_start: within(self.sends_from), end })
    }
}

impl Covered {
    /// Rows received and computed.
    pub const fn computed(self) -> u32 {
        self.end - self.start
    }

    /// Rows sent.
    pub const fn sent(self) -> u32 {
        self.end - self.sent_start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn windows_tile_all_positions(known in 1u32..2_000) {
            let (cuts, mut next) = (Cuts::new(known), 0);
            while next < known + 200 {
                let window = cuts.window(next);
                prop_assert_eq!(window.start, next);
                prop_assert!(window.end > next && window.end - next <= PREFILL_ROWS);
                prop_assert_eq!(window.phase == Phase::Prefill, window.end <= known);
                prop_assert!((window.start..window.end).all(|position| cuts.window(position) == window));
                next = window.end;
            }
        }

        #[test]
        fn what_one_sends_is_what_the_next_computes(
            known in 1u32..700, from in 0u32..700, next_from in 0u32..700, length in 1u32..900,
        ) {
            let cuts = Cuts::new(known);
            let (one, next) = (
                HopRows { computes_from: from.min(known - 1), sends_from: next_from.min(known - 1) },
                HopRows { computes_from: next_from.min(known - 1), sends_from: 0 },
            );
            let mut position = 0;
            while position < length {
                let window = cuts.window(position);
                let end = window.end.min(length);
                let sent = one.covered(window, end).map_or(0, Covered::sent);
                let computed = next.covered(window, end).map_or(0, Covered::computed);
                prop_assert_eq!(sent, computed);
                position = window.end;
            }
        }
    }
}
