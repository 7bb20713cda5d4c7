//! What a stage has sent on for its open sessions, so that another node can take the place of the next stage without
//! anybody before it computing again.
//!
//! Of a session all rows from its first one on are held, or none: a gap would be of no use. When the bytes run out, the
//! session with the most of them loses all; it frees the most, and its next stage can still be replaced by computing
//! the prompt anew.

use std::collections::HashMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use proto::Position;

use super::SessionKey;

/// Rows at the downstream boundary of a stage, by session. Names and bytes only; who replays what is the table's to say.
#[derive(Debug)]
pub(super) struct Boundaries {
    row_bytes: usize,
    limit: u64,
    bytes: u64,
    // Bounded by the sessions open or parked.
    rows: HashMap<SessionKey, Rows>,
    evictions: u64,
}

#[derive(Debug)]
struct Rows {
    start: Position,
    count: u32,
    /// Each of [`BLOCK_ROWS`] rows but the last: growing copies nothing, and leaves at most one block unused.
    blocks: Vec<BytesMut>,
    /// They are being sent again: not to be given up meanwhile.
    pinned: bool,
}

impl Boundaries {
    /// Holds up to `limit` bytes of rows of `row_bytes` each; none with 0.
    pub(super) fn new(row_bytes: usize, limit: u64) -> Self {
        Self { row_bytes: row_bytes.max(1), limit, bytes: 0, rows: HashMap::new(), evictions: 0 }
    }

    /// Takes the rows of `key` from `start` on, which came of one step. `first` is where the session's rows began.
    pub(super) fn push(&mut self, key: SessionKey, first: Position, start: Position, bytes: &[u8]) {
        let count = (bytes.len() / self.row_bytes) as u32;
        if count == 0 || self.limit == 0 {
            return;
        }
        if start == first {
            self.rows.entry(key).or_insert_with(|| Rows::from(start));
        }
        // Of a session that has lost its first rows none are held any more.
        let Some(rows) = self.rows.get_mut(&key) else { return };
        if rows.end() != start {
            return self.remove(key);
        }
        rows.push(bytes, self.row_bytes);
        self.bytes += bytes.len() as u64;
        while self.bytes > self.limit {
            let largest =
                self.rows.iter().filter(|(_, rows)| !rows.pinned).max_by_key(|(_, rows)| rows.count);
            let Some((&largest, _)) = largest else { break };
            self.remove(largest);
            self.evictions += 1;
        }
    }

    /// Whether all these rows are held; none are always.
    pub(super) fn covers(&self, key: SessionKey, range: &Range<u32>) -> bool {
        let held = |rows: &Rows| rows.start.get() <= range.start && range.end <= rows.end().get();
        range.is_empty() || self.rows.get(&key).is_some_and(held)
    }

    /// The rows held of a session.
    pub(super) fn held(&self, key: SessionKey) -> Option<Range<u32>> {
        self.rows.get(&key).map(|rows| rows.start.get()..rows.end().get())
    }

    /// Some rows from `start` on, at most `most` and at least one, and how many; `None` if they are not held.
    pub(super) fn read(&self, key: SessionKey, start: Position, most: u32) -> Option<(Bytes, u32)> {
        let rows = self.rows.get(&key)?;
        let from = start.get().checked_sub(rows.start.get())?;
        if from >= rows.count {
            return None;
        }
        let mut out = BytesMut::new();
        let mut at = from;
        while at < rows.count && at - from < most.max(1) {
            let (block, row) = ((at / BLOCK_ROWS) as usize, at % BLOCK_ROWS);
            let take = (BLOCK_ROWS - row).min(rows.count - at).min(most.max(1) - (at - from));
            let bytes = row as usize * self.row_bytes..(row + take) as usize * self.row_bytes;
            out.extend_from_slice(rows.blocks.get(block)?.get(bytes)?);
            at += take;
        }
        Some((out.freeze(), at - from))
    }

    /// While rows are sent again they stay.
    pub(super) fn pin(&mut self, key: SessionKey, pinned: bool) {
        if let Some(rows) = self.rows.get_mut(&key) {
            rows.pinned = pinned;
        }
    }

    /// Forgets rows from position `end` on.
    pub(super) fn trim(&mut self, key: SessionKey, end: Position) {
        let Some(rows) = self.rows.get_mut(&key) else { return };
        let keep = end.get().saturating_sub(rows.start.get()).min(rows.count);
        self.bytes -= u64::from(rows.count - keep) * self.row_bytes as u64;
        rows.count = keep;
        rows.blocks.truncate(keep.div_ceil(BLOCK_ROWS) as usize);
        let last = keep as usize - rows.blocks.len().saturating_sub(1) * BLOCK_ROWS as usize;
        if let Some(block) = rows.blocks.last_mut() {
            block.truncate(last * self.row_bytes);
        }
        if keep == 0 {
            self.rows.remove(&key);
        }
    }

    /// Forgets all of a session.
    pub(super) fn remove(&mut self, key: SessionKey) {
        if let Some(rows) = self.rows.remove(&key) {
            self.bytes -= u64::from(rows.count) * self.row_bytes as u64;
        }
    }

    /// Bytes held.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sessions whose rows were given up for want of room, so far.
    pub(super) const fn evictions(&self) -> u64 {
        self.evictions
    }
}

impl Rows {
    const fn from(start: Position) -> Self {
        Self { start, count: 0, blocks: Vec::new(), pinned: false }
    }

    fn end(&self) -> Position {
        self.start.plus(self.count)
    }

    fn push(&mut self, mut bytes: &[u8], row_bytes: usize) {
        let block_bytes = BLOCK_ROWS as usize * row_bytes;
        while !bytes.is_empty() {
            if self.blocks.last().is_none_or(|block| block.len() == block_bytes) {
                self.blocks.push(BytesMut::with_capacity(block_bytes));
            }
            let Some(block) = self.blocks.last_mut() else { return };
            let take = bytes.len().min(block_bytes - block.len());
            block.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            self.count += (take / row_bytes) as u32;
        }
    }
}

/// 128 KiB for rows of 2,048 bf16 values.
const BLOCK_ROWS: u32 = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::{NodeId, SessionId};

    use super::*;

    const ROW: usize = 4;

    fn key(number: u64) -> SessionKey {
        SessionKey { router: NodeId::from_bytes([1; 32]), session: SessionId::new(number) }
    }

    /// Rows that say where they belong.
    fn rows(session: u64, range: Range<u32>) -> Vec<u8> {
        range.flat_map(|at| (at * 31 + session as u32).to_le_bytes()).collect()
    }

    fn push(held: &mut Boundaries, session: u64, first: u32, range: Range<u32>) {
        held.push(key(session), Position::new(first), Position::new(range.start), &rows(session, range));
    }

    /// A decode step of a stage takes a millisecond at the very least (a layer of a 1B model): holding its row may take a
    /// hundredth of that. It takes half of it, most of that for memory that is new.
    #[test]
    fn holding_a_row_takes_less_than_a_hundredth_of_a_step() {
        const ROWS: u32 = 4_096;
        let row = vec![1_u8; 8 << 10];
        let mut held = Boundaries::new(row.len(), 1 << 30);
        #[expect(clippy::disallowed_methods, reason = "the time it takes is what is measured")]
        let now = std::time::Instant::now;
        let begun = now();
        for at in 0..ROWS {
            held.push(key(1), Position::new(0), Position::new(at), &row);
        }
        let each = begun.elapsed() / ROWS;
        eprintln!("a row of 8 KiB: {each:?}");
        assert_eq!(held.bytes(), u64::from(ROWS) * row.len() as u64);
        assert!(each < std::time::Duration::from_micros(10), "{each:?}");
    }

    #[test]
    fn the_longest_goes_first_and_whole_but_not_while_it_is_sent_again() {
        let mut held = Boundaries::new(ROW, 100 * ROW as u64);
        push(&mut held, 1, 0, 0..60);
        push(&mut held, 2, 0, 0..40);
        assert_eq!((held.bytes(), held.evictions()), (400, 0));
        held.pin(key(1), true);
        push(&mut held, 3, 0, 0..1);
        assert!(
            held.covers(key(1), &(0..60)) && !held.covers(key(2), &(0..1)) && held.covers(key(3), &(0..1))
        );
        held.pin(key(1), false);
        push(&mut held, 3, 0, 1..45);
        assert!(!held.covers(key(1), &(0..1)) && held.covers(key(3), &(0..45)));
        assert_eq!(held.evictions(), 2);
        push(&mut held, 1, 0, 60..61);
        assert!(
            held.covers(key(1), &(7..7)) && !held.covers(key(1), &(60..61)),
            "nothing without its beginning"
        );
        held.remove(key(3));
        assert_eq!(held.bytes(), 0);
        let mut none = Boundaries::new(ROW, 0);
        push(&mut none, 1, 0, 0..1);
        assert_eq!(none.bytes(), 0);
    }

    proptest! {
        /// What is read is what was pushed, whatever came between, and the bytes held are counted.
        #[test]
        fn rows_come_back_as_they_went_in(
            first in 0u32..100,
            moves in prop::collection::vec((0u64..3, 0u8..5, 1u32..90), 1..60),
        ) {
            let mut held = Boundaries::new(ROW, 1 << 20);
            let mut ends = [first; 3];
            for (session, kind, size) in moves {
                let at = session as usize;
                match kind {
                    0..=2 => {
                        push(&mut held, session, first, ends[at]..ends[at] + size);
                        ends[at] += size;
                    }
                    3 => {
                        ends[at] = ends[at].saturating_sub(size).max(first);
                        held.trim(key(session), Position::new(ends[at]));
                    }
                    _ => {
                        let from = first + size.min(ends[at] - first) / 2;
                        let mut read = from;
                        while read < ends[at] {
                            let (bytes, count) = held.read(key(session), Position::new(read), size).unwrap();
                            prop_assert!((1..=size).contains(&count));
                            prop_assert_eq!(&bytes[..], &rows(session, read..read + count)[..]);
                            read += count;
                        }
                    }
                }
                prop_assert!(held.covers(key(session), &(first..ends[at])));
                prop_assert!(!held.covers(key(session), &(first..ends[at] + 1)));
                let sum: u32 = ends.iter().map(|end| end - first).sum();
                prop_assert_eq!(held.bytes(), u64::from(sum) * ROW as u64);
            }
        }
    }
}
