//! Beginnings of prompts whose rows a stage still holds: what may be reused by whom, and what goes first.
//!
//! A session that ends leaves its KV here, cut to whole blocks; one that opens with the same first blocks gets a copy.
//! So nothing here is ever in use: any of it may go at any time, the least recently used first. Names only, the
//! memory is the [`Stage`](crate::Stage)'s.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proto::prefix::BLOCK_TOKENS;
use proto::{BlockHash, ContentHash};

use crate::KvSlot;

/// Everything that rows depend on besides their tokens, and whose they are: rows of one scope are of no use in another
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PrefixScope(ContentHash);

impl PrefixScope {
    /// From a hash over all of it.
    pub const fn new(hash: ContentHash) -> Self {
        Self(hash)
    }
}

/// Rows that can be copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixMatch {
    /// Where they are.
    pub slot: KvSlot,
    /// How many, from position 0.
    pub positions: u32,
}

/// What happened so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrefixCounts {
    /// Sessions that offered blocks.
    pub lookups: u64,
    /// Those of them that found rows.
    pub hits: u64,
    /// Prefixes that went to make room.
    pub evictions: u64,
}

/// The prefixes of one stage.
#[derive(Debug)]
pub struct PrefixStore {
    limit: u64,
    positions: u64,
    /// Counts uses; the smallest is the least recent.
    uses: u64,
    // Bounded by MOST_PREFIXES.
    entries: HashMap<KvSlot, Entry>,
    // Bounded by the positions kept: an entry stands here once for each of its blocks.
    by_block: HashMap<(PrefixScope, BlockHash), Vec<KvSlot>>,
    counts: PrefixCounts,
}

#[derive(Debug)]
struct Entry {
    scope: PrefixScope,
    blocks: Vec<BlockHash>,
    last_use: u64,
    touched: Instant,
}

impl Entry {
    fn positions(&self) -> u64 {
        self.blocks.len() as u64 * u64::from(BLOCK_TOKENS)
    }
}

impl PrefixStore {
    /// Keeps up to `limit` positions.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            positions: 0,
            uses: 0,
            entries: HashMap::new(),
            by_block: HashMap::new(),
            counts: PrefixCounts::default(),
        }
    }

    /// The rows for the most of `blocks`, from the first one on.
    pub fn longest(&mut self, now: Instant, scope: PrefixScope, blocks: &[BlockHash]) -> Option<PrefixMatch> {
        if blocks.is_empty() {
            return None;
        }
        self.counts.lookups += 1;
        let found = blocks.iter().enumerate().rev().find_map(|(index, &block)| {
            // A block's hash covers all before it, so an honest list has it at one place only.
            let at_place = |slot: &&KvSlot| {
                self.entries.get(slot).is_some_and(|entry| entry.blocks.get(index) == Some(&block))
            };
            let slot = *self.by_block.get(&(scope, block))?.iter().rev().find(at_place)?;
            Some(PrefixMatch { slot, positions: (index as u32 + 1) * BLOCK_TOKENS })
        })?;
        self.counts.hits += 1;
        self.touch(now, found.slot);
        Some(found)
    }

    /// Whether the rows of all `blocks` are held already; they count as used.
    pub fn holds(&mut self, now: Instant, scope: PrefixScope, blocks: &[BlockHash]) -> bool {
        let index = blocks.len().wrapping_sub(1);
        let at_place = |slot: &&KvSlot| {
            self.entries.get(slot).is_some_and(|entry| entry.blocks.get(index) == blocks.last())
        };
        let slot = blocks
            .last()
            .and_then(|&last| self.by_block.get(&(scope, last))?.iter().rev().find(at_place).copied());
        if let Some(slot) = slot {
            self.touch(now, slot);
        }
        slot.is_some()
    }

    /// Keeps `slot`, whose rows are those of `blocks`. `None` if it is not worth it: then the slot is to be freed;
    /// otherwise the slots given back are.
    pub fn keep(
        &mut self,
        now: Instant,
        scope: PrefixScope,
        blocks: Vec<BlockHash>,
        slot: KvSlot,
    ) -> Option<Vec<KvSlot>> {
        let positions = blocks.len() as u64 * u64::from(BLOCK_TOKENS);
        if positions == 0 || positions > self.limit || self.holds(now, scope, &blocks) {
            return None;
        }
        // What is a beginning of the new one has nothing that the new one has not.
        let mut freed: Vec<KvSlot> = Vec::new();
        for (index, &block) in blocks.iter().enumerate() {
            let within = self.by_block.get(&(scope, block)).into_iter().flatten();
            let whole = |slot: &&KvSlot| {
                self.entries
                    .get(slot)
                    .is_some_and(|e| e.blocks.len() == index + 1 && e.blocks.last() == Some(&block))
            };
            freed.extend(within.filter(whole));
        }
        for &slot in &freed {
            self.forget(slot);
        }
        freed.extend(self.evict((self.positions + positions).saturating_sub(self.limit), None));
        while self.entries.len() >= MOST_PREFIXES {
            freed.extend(self.evict(1, None));
        }
        for &block in &blocks {
            self.by_block.entry((scope, block)).or_default().push(slot);
        }
        self.positions += positions;
        self.uses += 1;
        self.entries.insert(slot, Entry { scope, blocks, last_use: self.uses, touched: now });
        Some(freed)
    }

    /// Gives up prefixes of at least `positions` positions, if there are so many; `spare` goes last.
    pub fn evict(&mut self, positions: u64, spare: Option<KvSlot>) -> Vec<KvSlot> {
        let target = self.positions.saturating_sub(positions);
        let mut freed = Vec::new();
        while self.positions > target {
            let oldest = self.entries.iter().min_by_key(|&(&slot, e)| (Some(slot) == spare, e.last_use));
            let Some((&slot, _)) = oldest else { break };
            self.forget(slot);
            self.counts.evictions += 1;
            freed.push(slot);
        }
        freed
    }

    /// Gives up those that nobody has used for `lease`.
    pub fn expire(&mut self, now: Instant, lease: Duration) -> Vec<KvSlot> {
        let idle = |entry: &Entry| now.saturating_duration_since(entry.touched) >= lease;
        let freed: Vec<_> =
            self.entries.iter().filter(|(_, entry)| idle(entry)).map(|(&slot, _)| slot).collect();
        for &slot in &freed {
            self.forget(slot);
        }
        freed
    }

    /// The rows of `slot` are gone.
    pub fn forget(&mut self, slot: KvSlot) {
        let Some(entry) = self.entries.remove(&slot) else { return };
        self.positions -= entry.positions();
        for block in entry.blocks {
            let key = (entry.scope, block);
            if let Some(slots) = self.by_block.get_mut(&key) {
                slots.retain(|&other| other != slot);
                if slots.is_empty() {
                    self.by_block.remove(&key);
                }
            }
        }
    }

    /// Positions kept.
    pub const fn positions(&self) -> u64 {
        self.positions
    }

    /// Prefixes kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What happened so far.
    pub const fn counts(&self) -> PrefixCounts {
        self.counts
    }

    fn touch(&mut self, now: Instant, slot: KvSlot) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(&slot) {
            (entry.last_use, entry.touched) = (self.uses, now);
        }
    }
}

/// The oldest is found by looking at all of them.
const MOST_PREFIXES: usize = 1024;

#[cfg(test)]
mod tests;
