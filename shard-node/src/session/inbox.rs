//! Rows that wait for a step, in order and each position once.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::Position;

/// Something that is dropped when the rows are computed or thrown away, for instance a permit of the stream they came
/// on: that is how a slow stage throttles its upstream.
#[derive(Clone)]
pub struct Hold(Arc<dyn Any + Send + Sync>);

impl Hold {
    /// Holds `what` until the last clone is dropped.
    pub fn new(what: impl Any + Send + Sync) -> Self {
        Self(Arc::new(what))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", Arc::strong_count(&self.0))
    }
}

/// When something came, and how old it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When the frame was read.
    pub received: Instant,
    /// Since the end of the sender's compute, as estimated on arrival; `None` if unknown.
    pub under_way: Option<Duration>,
}

impl Arrival {
    /// From the end of the sender's compute to `now`.
    pub fn since_upstream(&self, now: Instant) -> Option<Duration> {
        self.under_way.map(|before| before + now.saturating_duration_since(self.received))
    }
}

/// The input of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkRows {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Activations, all rows of equal length.
    Activations(Bytes),
}

/// Consecutive rows that came together.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Their input.
    pub rows: ChunkRows,
    /// How many, at least 1.
    pub count: u32,
    /// The last one is to be sampled.
    pub sample: bool,
    /// They belong to the prompt.
    pub prefill: bool,
    /// When they came, for decode rows from a hop.
    pub arrival: Option<Arrival>,
    /// Dropped with the rows.
    pub hold: Option<Hold>,
}

impl Chunk {
    /// The row of one generated token.
    pub fn token(token: u32, arrival: Option<Arrival>) -> Self {
        Self {
            rows: ChunkRows::Tokens(vec![token]),
            count: 1,
            sample: true,
            prefill: false,
            arrival,
            hold: None,
        }
    }

    /// Splits the first `count` rows off; `count` is less than `self.count`.
    fn split_first(&mut self, count: u32) -> Self {
        let rows = match &mut self.rows {
            ChunkRows::Tokens(tokens) => {
                let rest = tokens.split_off(count as usize);
                ChunkRows::Tokens(std::mem::replace(tokens, rest))
            }
            ChunkRows::Activations(bytes) => {
                let row_bytes = bytes.len() / self.count as usize;
                ChunkRows::Activations(bytes.split_to(row_bytes * count as usize))
            }
        };
        self.count -= count;
        Self {
            rows,
            count,
            sample: false,
            prefill: self.prefill,
            arrival: self.arrival,
            hold: self.hold.clone(),
        }
    }
}

/// A frame that breaks the protocol's rules of order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("rows start at position {got}, but {expected} is next")]
    Gap { expected: Position, got: Position },
    #[error("rows end at position {end}, but {reserved} positions are reserved")]
    Beyond { end: u64, reserved: u32 },
    #[error("more rows than one prefill or one decode row are in flight")]
    Crowded,
    #[error("{what} came to a stage that takes none")]
    NotForThisStage { what: &'static str },
    #[error("token id {token} is outside the vocabulary of {vocab}")]
    Token { token: u32, vocab: u32 },
}

/// Rows accepted and not yet taken.
#[derive(Debug)]
pub(super) struct Inbox {
    reserved: u32,
    /// Where the next row must start.
    end: Position,
    // Bounded by the positions reserved: each chunk holds at least one that no other holds. Their bytes are bounded
    // by the holds of the streams they came on.
    waiting: VecDeque<Chunk>,
    waiting_rows: u32,
}

impl Inbox {
    pub(super) fn new(reserved: u32) -> Self {
        Self { reserved, end: Position::new(0), waiting: VecDeque::new(), waiting_rows: 0 }
    }

    /// The first row will be that of `start`; only before any row came.
    pub(super) const fn begin_at(&mut self, start: Position) {
        self.end = start;
    }

    /// Position after the last row accepted.
    pub(super) const fn end(&self) -> Position {
        self.end
    }

    /// Position of the first row that waits.
    pub(super) const fn next(&self) -> Position {
        Position::new(self.end.get() - self.waiting_rows)
    }

    /// Rows of the first chunk that waits.
    pub(super) fn front_rows(&self) -> u32 {
        self.waiting.front().map_or(0, |chunk| chunk.count)
    }

    /// Accepts the rows that are new and returns how many; rows accepted before are dropped.
    pub(super) fn offer(&mut self, start: Position, mut chunk: Chunk) -> Result<u32, Violation> {
        let end = u64::from(start.get()) + u64::from(chunk.count);
        if end <= u64::from(self.end.get()) {
            return Ok(0);
        }
        if start > self.end {
            return Err(Violation::Gap { expected: self.end, got: start });
        }
        if end > u64::from(self.reserved) {
            return Err(Violation::Beyond { end, reserved: self.reserved });
        }
        let known = self.end.get() - start.get();
        if known > 0 {
            chunk.split_first(known);
        }
        if !chunk.prefill && (chunk.count != 1 || !self.waiting.is_empty()) {
            return Err(Violation::Crowded);
        }
        let count = chunk.count;
        self.end = self.end.plus(count);
        self.waiting_rows += count;
        self.waiting.push_back(chunk);
        Ok(count)
    }

    /// Takes up to `rows` rows of the first chunk, with their position.
    pub(super) fn take(&mut self, rows: u32) -> Option<(Position, Chunk)> {
        let start = self.next();
        let front = self.waiting.front_mut()?;
        let chunk =
            if rows >= front.count { self.waiting.pop_front()? } else { front.split_first(rows.max(1)) };
        self.waiting_rows -= chunk.count;
        Some((start, chunk))
    }
}
