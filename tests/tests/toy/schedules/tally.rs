//! What became of schedules, in numbers.

use std::collections::BTreeMap;

/// What became of one schedule, or of many.
#[derive(Debug, Default, Clone)]
pub(super) struct Tally {
    /// Answers that were whole.
    pub(super) whole: usize,
    /// Those whose client went.
    pub(super) given_up: usize,
    /// Those that ended as nobody had their layers any more.
    pub(super) cut_off: usize,
    /// How often an answer went on over another route.
    pub(super) moves: usize,
    /// How often one began anew before its first token.
    pub(super) retries: usize,
    /// Faults that struck, by kind.
    pub(super) faults: BTreeMap<&'static str, usize>,
    /// Sessions that went on from rows held.
    pub(super) resumed: usize,
    /// Rows that were sent on once more.
    pub(super) replayed: usize,
    /// Sessions whose rows sent on were given up for want of room.
    pub(super) evicted: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.whole += other.whole;
        self.given_up += other.given_up;
        self.cut_off += other.cut_off;
        self.moves += other.moves;
        self.retries += other.retries;
        self.resumed += other.resumed;
        self.replayed += other.replayed;
        self.evicted += other.evicted;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}
