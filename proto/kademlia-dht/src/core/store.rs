//! The record store: sets of records under keys, bounded in bytes. Keeps what was verified; sends nothing.
//!
//! A signer's newer record deletes its older ones under every key, also under those the newer one does not
//! belong to (the node has changed its model), so a signer holds at most four places. When the store is full,
//! the keys furthest from our own give way: others are more responsible for them than we are.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::NodeId;
use proto::record::{DhtKey, VerifiedRecord};

use super::counters::Rejection;
use super::distance::Distance;
use super::record_set::{Offered, RecordSet};
use super::subnet::Subnet;

/// All records this node keeps for others (and its own).
#[derive(Debug)]
pub(crate) struct RecordStore {
    own: DhtKey,
    capacity_bytes: usize,
    /// Ordered by distance from our own key, so that the last one is the first to go.
    sets: BTreeMap<Distance, (DhtKey, RecordSet)>,
    signers: BTreeMap<NodeId, Signer>,
    bytes: usize,
    records: usize,
}

#[derive(Debug)]
struct Signer {
    /// The newest: nothing else of the signer is kept.
    record: Arc<VerifiedRecord>,
    /// At most four: the keys of one record.
    keys: Vec<DhtKey>,
}

impl RecordStore {
    pub(crate) fn new(own: DhtKey, capacity_bytes: usize) -> Self {
        Self { own, capacity_bytes, sets: BTreeMap::new(), signers: BTreeMap::new(), bytes: 0, records: 0 }
    }

    /// Keeps `record` under `key`, or says why not. `subnet` is where it came from.
    pub(crate) fn store(
        &mut self,
        key: DhtKey,
        record: &Arc<VerifiedRecord>,
        subnet: Subnet,
    ) -> Result<(), Rejection> {
        if !belongs(record, &key) {
            return Err(Rejection::WrongKey);
        }
        // Two records of one sequence are the signer's fault; the first one stays.
        let superseded = |known: &Signer| {
            let (held, offered) = (known.record.record().sequence, record.record().sequence);
            held > offered || held == offered && known.record.signed() != record.signed()
        };
        if self.signers.get(&record.node()).is_some_and(superseded) {
            return Err(Rejection::Older);
        }
        let distance = Distance::between(&self.own, &key);
        if !self.make_room(distance, cost(record)) {
            return Err(Rejection::Full);
        }
        let added = cost(record);
        let (_, set) = self.sets.entry(distance).or_insert_with(|| (key, RecordSet::default()));
        let offered = set.offer(Arc::clone(record), subnet);
        let refused = match offered {
            Offered::Same => return Ok(()),
            Offered::Older => Some(Rejection::Older),
            Offered::Full => Some(Rejection::Full),
            Offered::Kept(displaced) => {
                self.bytes += added;
                self.records += 1;
                for gone in displaced {
                    self.forget(&gone, &key);
                }
                None
            }
        };
        if let Some(reason) = refused {
            self.drop_if_empty(distance);
            return Err(reason);
        }
        self.note_signer(key, record);
        Ok(())
    }

    /// A page of the records under `key`.
    pub(crate) fn page(
        &self,
        key: &DhtKey,
        after: Option<NodeId>,
        limit: usize,
        unix_seconds: u64,
    ) -> (Vec<Arc<VerifiedRecord>>, bool) {
        match self.sets.get(&Distance::between(&self.own, key)) {
            Some((_, set)) => set.page(after, limit, unix_seconds),
            None => (Vec::new(), false),
        }
    }

    /// Drops what has expired.
    pub(crate) fn expire(&mut self, unix_seconds: u64) {
        let mut gone = Vec::new();
        for (key, set) in self.sets.values_mut() {
            gone.extend(set.expire(unix_seconds).into_iter().map(|record| (*key, record)));
        }
        for (key, record) in gone {
            self.forget(&record, &key);
        }
        self.sets.retain(|_, (_, set)| !set.is_empty());
    }

    pub(crate) const fn records(&self) -> usize {
        self.records
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops keys further away than `distance` until `needed` bytes are free.
    fn make_room(&mut self, distance: Distance, needed: usize) -> bool {
        while self.bytes + needed > self.capacity_bytes {
            match self.sets.last_entry() {
                Some(furthest) if *furthest.key() > distance => {
                    let (key, set) = furthest.remove();
                    let gone: Vec<_> = set.records().cloned().collect();
                    for record in gone {
                        self.forget(&record, &key);
                    }
                }
                _ => return false,
            }
        }
        true
    }

    /// A signer's newer record ends its older ones elsewhere.
    fn note_signer(&mut self, key: DhtKey, record: &Arc<VerifiedRecord>) {
        let signer = record.node();
        let known = self
            .signers
            .entry(signer)
            .or_insert_with(|| Signer { record: Arc::clone(record), keys: Vec::new() });
        let newer = known.record.record().sequence < record.record().sequence;
        known.record = Arc::clone(record);
        if !known.keys.contains(&key) {
            known.keys.push(key);
        }
        if !newer {
            return;
        }
        let stale: Vec<DhtKey> = known.keys.iter().copied().filter(|held| !belongs(record, held)).collect();
        for key in stale {
            let distance = Distance::between(&self.own, &key);
            let gone = self.sets.get_mut(&distance).and_then(|(_, set)| set.remove(signer));
            if let Some(gone) = gone {
                self.forget(&gone, &key);
            }
            self.drop_if_empty(distance);
        }
    }

    /// Accounts for a record that has left the set under `key`.
    fn forget(&mut self, record: &VerifiedRecord, key: &DhtKey) {
        self.bytes -= cost(record);
        self.records -= 1;
        let signer = record.node();
        let still_held = self
            .sets
            .get(&Distance::between(&self.own, key))
            .is_some_and(|(_, set)| set.records().any(|held| held.node() == signer));
        if still_held {
            return;
        }
        if let Some(known) = self.signers.get_mut(&signer) {
            known.keys.retain(|held| held != key);
            if known.keys.is_empty() {
                self.signers.remove(&signer);
            }
        }
    }

    fn drop_if_empty(&mut self, distance: Distance) {
        if self.sets.get(&distance).is_some_and(|(_, set)| set.is_empty()) {
            self.sets.remove(&distance);
        }
    }
}

/// Whether a record may stand under `key`: the keys follow from the record itself.
pub(crate) fn belongs(record: &VerifiedRecord, key: &DhtKey) -> bool {
    let facts = record.record();
    DhtKey::of_offer(facts.node, facts.offer.as_ref()).contains(key)
}

/// Estimated memory of a record: its body twice (as bytes and parsed), signature, ids, map entries.
fn cost(record: &VerifiedRecord) -> usize {
    2 * record.signed().body_len() + 512
}

#[cfg(test)]
mod tests;
