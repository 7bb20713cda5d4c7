//! How many KV positions are promised to whom.
//!
//! A session's positions are reserved when it opens, so that no later step can fail for lack of memory; what does
//! not fit is refused then. The ledger counts promises; the memory itself is the [`Stage`](crate::Stage)'s.

use std::collections::HashMap;
use std::hash::Hash;

/// Reservations of one stage, by whatever names a session.
#[derive(Debug, Clone)]
pub struct KvLedger<K> {
    capacity: u64,
    reserved: u64,
    // Bounded by the capacity: every entry takes at least one position of it.
    entries: HashMap<K, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    reserved: u32,
    used: u32,
}

/// Why a reservation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// More than is free.
    #[error(
        "{asked} positions of KV asked for, {free} of {capacity} are free: try again later or ask for fewer"
    )]
    Full {
        /// Positions asked for.
        asked: u32,
        /// Positions not promised to anybody.
        free: u64,
        /// Positions in all.
        capacity: u64,
    },
    /// A session reserves once.
    #[error("the session holds a reservation already")]
    Twice,
    /// A session without positions could not hold a row.
    #[error("a reservation of no positions")]
    Empty,
}

impl<K: Copy + Eq + Hash> KvLedger<K> {
    /// A ledger over `capacity` positions.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, reserved: 0, entries: HashMap::new() }
    }

    /// Promises `positions` to `key`.
    pub fn reserve(&mut self, key: K, positions: u32) -> Result<(), ReserveError> {
        if positions == 0 {
            return Err(ReserveError::Empty);
        }
        if self.entries.contains_key(&key) {
            return Err(ReserveError::Twice);
        }
        let free = self.capacity - self.reserved;
        if u64::from(positions) > free {
            return Err(ReserveError::Full { asked: positions, free, capacity: self.capacity });
        }
        self.reserved += u64::from(positions);
        self.entries.insert(key, Entry { reserved: positions, used: 0 });
        Ok(())
    }

    /// Notes that `key` holds rows up to `length`; more than it reserved counts as what it reserved.
    pub fn set_used(&mut self, key: K, length: u32) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.used = length.min(entry.reserved);
        }
    }

    /// Takes the promise back; returns the positions freed, 0 for an unknown key.
    pub fn release(&mut self, key: K) -> u32 {
        let freed = self.entries.remove(&key).map_or(0, |entry| entry.reserved);
        self.reserved -= u64::from(freed);
        freed
    }

    /// Positions in all.
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Positions promised.
    pub const fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Positions that hold rows.
    pub fn used(&self) -> u64 {
        self.entries.values().map(|entry| u64::from(entry.used)).sum()
    }

    /// Sessions with a promise.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody holds a promise.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_refusal_names_what_is_free() {
        let mut ledger = KvLedger::new(100);
        ledger.reserve(1, 60).unwrap();
        let error = ledger.reserve(2, 41).unwrap_err();
        assert_eq!(error, ReserveError::Full { asked: 41, free: 40, capacity: 100 });
        assert!(error.to_string().contains("40 of 100"), "{error}");
        assert_eq!(ledger.reserve(1, 1), Err(ReserveError::Twice));
        assert_eq!(ledger.reserve(3, 0), Err(ReserveError::Empty));
        assert_eq!(ledger.release(1), 60);
        assert_eq!(ledger.release(1), 0);
        ledger.reserve(2, 100).unwrap();
    }

    proptest! {
        #[test]
        fn what_is_reserved_is_the_sum_of_the_promises_and_never_over_capacity(
            capacity in 0u64..500,
            moves in prop::collection::vec((0u8..12, any::<bool>(), 0u32..200), 0..200),
        ) {
            let mut ledger = KvLedger::new(capacity);
            let mut model: HashMap<u8, u32> = HashMap::new();
            for (key, open, positions) in moves {
                if open {
                    if ledger.reserve(key, positions).is_ok() {
                        model.insert(key, positions);
                        ledger.set_used(key, positions / 2);
                    }
                } else {
                    prop_assert_eq!(ledger.release(key), model.remove(&key).unwrap_or(0));
                }
                let sum: u64 = model.values().map(|&p| u64::from(p)).sum();
                prop_assert_eq!(ledger.reserved(), sum);
                prop_assert!(ledger.reserved() <= capacity && ledger.used() <= ledger.reserved());
                prop_assert_eq!(ledger.len(), model.len());
            }
        }
    }
}
