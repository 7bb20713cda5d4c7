//! Rows of sessions whose pipeline broke, kept for their next generation.
//!
//! They stay promised to their session and are given up when somebody else needs the room, or when no next
//! generation comes: nobody may count on them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::{Generation, LayerSpan};
use shard_node_stage::{KvSlot, PrefixScope};

use crate::session::SessionKey;

/// What is kept of one session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    /// Where.
    pub(super) slot: KvSlot,
    /// How many, from position 0.
    pub(super) held: u32,
    /// Positions reserved.
    pub(super) reserved: u32,
    /// In these layers.
    pub(super) part: LayerSpan,
    /// Of which generation they are.
    pub(super) generation: Generation,
    /// Which stages they came from; `None` if from several routes.
    pub(super) scope: Option<PrefixScope>,
}

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Parked {
    // Bounded by the sessions that may be open, and by the KV that they hold.
    rows: HashMap<SessionKey, (Rows, Instant)>,
}

impl Parked {
    pub(super) fn insert(&mut self, now: Instant, key: SessionKey, rows: Rows, lease: Duration) {
        self.rows.insert(key, (rows, now + lease.min(LONGEST)));
    }

    pub(super) fn take(&mut self, key: SessionKey) -> Option<Rows> {
        self.rows.remove(&key).map(|(rows, _)| rows)
    }

    /// Those of a session, if they are of this generation or of one before.
    pub(super) fn take_up_to(&mut self, key: SessionKey, generation: Generation) -> Option<Rows> {
        let (rows, _) = self.rows.get(&key)?;
        if rows.generation <= generation { self.take(key) } else { None }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The one that would go next.
    pub(super) fn take_oldest(&mut self) -> Option<(SessionKey, Rows)> {
        let (&oldest, _) = self.rows.iter().min_by_key(|&(&key, &(_, until))| (until, key))?;
        Some((oldest, self.take(oldest)?))
    }

    /// Those that nobody came for.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(SessionKey, Rows)> {
        self.rows.extract_if(|_, &mut (_, until)| until <= now).map(|(key, (rows, _))| (key, rows)).collect()
    }

    /// Positions reserved for all of them.
    pub(super) fn positions(&self) -> u64 {
        self.rows.values().map(|(rows, _)| u64::from(rows.reserved)).sum()
    }
}

/// A router looks for another route for this long (`docs/ARCHITECTURE.md`).
const LONGEST: Duration = Duration::from_secs(10);
