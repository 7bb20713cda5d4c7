//! The set of records under one key: one per signer, bounded, shared out fairly by subnet. Used by the store and
//! to merge what a lookup finds.
//!
//! # Eviction
//! A full set makes room for a newcomer only at the cost of the most crowded subnet, and only if that subnet
//! stays at least as crowded as the newcomer's becomes. The victim is the record of that subnet whose lease ends
//! first. So whoever fills a key from few subnets displaces himself before anybody else, and with `n` subnets
//! asking, each is sure of `256 / n` places. A set full of equally crowded subnets waits for leases to end.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::NodeId;
use proto::record::VerifiedRecord;

use super::limits::RECORDS_PER_KEY;
use super::subnet::Subnet;

/// One record per signer.
#[derive(Debug, Default)]
pub(crate) struct RecordSet {
    // At most `RECORDS_PER_KEY`.
    held: BTreeMap<NodeId, Held>,
}

#[derive(Debug)]
struct Held {
    record: Arc<VerifiedRecord>,
    subnet: Subnet,
}

/// What became of an offered record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offered {
    /// Kept, in place of the records named.
    Kept(Vec<Arc<VerifiedRecord>>),
    /// The same record is held.
    Same,
    /// A newer one of the signer is held.
    Older,
    /// No room for its subnet.
    Full,
}

impl RecordSet {
    /// Offers a record that came from (or announces an address in) `subnet`. A tombstone takes the place of the
    /// record it deletes, so that older copies can't come back before their lease ends.
    pub(crate) fn offer(&mut self, record: Arc<VerifiedRecord>, subnet: Subnet) -> Offered {
        let signer = record.node();
        if let Some(held) = self.held.get_mut(&signer) {
            if held.record.signed() == record.signed() {
                return Offered::Same;
            }
            // Two records of one sequence are the signer's fault; the first one stays.
            if held.record.record().sequence >= record.record().sequence {
                return Offered::Older;
            }
            held.subnet = subnet;
            return Offered::Kept(vec![std::mem::replace(&mut held.record, record)]);
        }
        let mut displaced = Vec::new();
        if self.held.len() >= RECORDS_PER_KEY {
            match self.victim(subnet) {
                Some(victim) => displaced.extend(self.held.remove(&victim).map(|held| held.record)),
                None => return Offered::Full,
            }
        }
        self.held.insert(signer, Held { record, subnet });
        Offered::Kept(displaced)
    }

    /// Drops records whose lease is over and returns them.
    pub(crate) fn expire(&mut self, unix_seconds: u64) -> Vec<Arc<VerifiedRecord>> {
        let mut gone = Vec::new();
        self.held.retain(|_, held| {
            let live = held.record.record().expires_unix_s() >= unix_seconds;
            if !live {
                gone.push(Arc::clone(&held.record));
            }
            live
        });
        gone
    }

    pub(crate) fn remove(&mut self, signer: NodeId) -> Option<Arc<VerifiedRecord>> {
        self.held.remove(&signer).map(|held| held.record)
    }

    /// Up to `limit` live records (tombstones too) of signers above `after`, and whether there are more.
    pub(crate) fn page(
        &self,
        after: Option<NodeId>,
        limit: usize,
        unix_seconds: u64,
    ) -> (Vec<Arc<VerifiedRecord>>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut rest = self
            .held
            .range((from, Unbounded))
            .map(|(_, held)| &held.record)
            .filter(|record| record.record().expires_unix_s() >= unix_seconds);
        let page = rest.by_ref().take(limit).cloned().collect();
        (page, rest.next().is_some())
    }

    /// Everything held, tombstones too, ordered by signer.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Arc<VerifiedRecord>> {
        self.held.values().map(|held| &held.record)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whose place a newcomer of `subnet` takes in a full set.
    fn victim(&self, subnet: Subnet) -> Option<NodeId> {
        let mut crowds: BTreeMap<Subnet, usize> = BTreeMap::new();
        for held in self.held.values() {
            *crowds.entry(held.subnet).or_default() += 1;
        }
        let newcomers = crowds.get(&subnet).copied().unwrap_or(0);
        let (crowded, size) = crowds.into_iter().max_by_key(|(_, size)| *size)?;
        if size < newcomers + 2 {
            return None;
        }
        self.held
            .iter()
            .filter(|(_, held)| held.subnet == crowded)
            .min_by_key(|(signer, held)| (held.record.record().expires_unix_s(), **signer))
            .map(|(signer, _)| *signer)
    }
}
