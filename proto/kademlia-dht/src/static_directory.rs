//! [`StaticDirectory`]: a list of records in this process in place of the DHT, for tests and for swarms whose
//! members are known beforehand. Nothing goes over the network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::NodeId;
use proto::record::{DhtKey, RecordError, SignedRecord, VerifiedRecord};

use crate::clock::unix_millis;
use crate::directory::{Announcement, Directory, DirectoryFuture, LookupError, PublishError, Published};

/// A list of verified records. Either fixed ([`StaticDirectory::fixed`]) or shared by the members of an
/// in-process swarm ([`StaticDirectory::shared`], one [`StaticDirectory::member`] each).
///
/// Leases are not watched: a record stays until it is replaced or withdrawn.
#[derive(Debug)]
pub struct StaticDirectory {
    // Bounded by what this process puts in: nothing arrives from the network.
    records: Arc<Mutex<BTreeMap<NodeId, VerifiedRecord>>>,
    announced: Mutex<Option<Announcement>>,
    writable: bool,
}

impl StaticDirectory {
    /// A read-only list.
    pub fn fixed(records: impl IntoIterator<Item = VerifiedRecord>) -> Self {
        let records = records.into_iter().map(|record| (record.node(), record)).collect();
        Self { records: Arc::new(Mutex::new(records)), announced: Mutex::default(), writable: false }
    }

    /// An empty list that members may announce into.
    pub fn shared() -> Self {
        Self { records: Arc::default(), announced: Mutex::default(), writable: true }
    }

    /// Another member's handle to the same list.
    #[must_use]
    pub fn member(&self) -> Self {
        Self { records: Arc::clone(&self.records), announced: Mutex::default(), writable: self.writable }
    }

    fn put(&self, record: SignedRecord) -> Result<Published, PublishError> {
        if !self.writable {
            return Err(PublishError::ReadOnly);
        }
        let record = record.verify(unix_millis() / 1000)?;
        let facts = record.record();
        let keys = DhtKey::of_offer(facts.node, facts.offer.as_ref()).len();
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = records.get(&facts.node).is_none_or(|held| held.record().sequence < facts.sequence);
        if newest && facts.withdrawn {
            records.remove(&facts.node);
        } else if newest {
            records.insert(facts.node, record);
        }
        Ok(Published { keys, kept: keys, ..Published::default() })
    }

    fn swap_announced(&self, next: Option<Announcement>) -> Option<Announcement> {
        std::mem::replace(&mut *self.announced.lock().unwrap_or_else(PoisonError::into_inner), next)
    }
}

impl Directory for StaticDirectory {
    fn announce(&self, announcement: Announcement) -> DirectoryFuture<'_, Result<Published, PublishError>> {
        Box::pin(async move {
            let published = self.put(announcement.sign_at(unix_millis())?)?;
            self.swap_announced(Some(announcement));
            Ok(published)
        })
    }

    fn withdraw(&self) -> DirectoryFuture<'_, Result<Published, PublishError>> {
        Box::pin(async move {
            match self.swap_announced(None) {
                Some(announcement) => {
                    // The list's clock has milliseconds: withdrawn within one, the tombstone must still win.
                    let held = self.sequence_of(announcement.record().node).unwrap_or(0);
                    self.put(announcement.tombstone_at(unix_millis().max(held + 1))?)
                }
                None => Ok(Published::default()),
            }
        })
    }

    fn publish(&self, record: SignedRecord) -> DirectoryFuture<'_, Result<Published, PublishError>> {
        Box::pin(async move { self.put(record) })
    }

    fn lookup(&self, key: DhtKey) -> DirectoryFuture<'_, Result<Vec<VerifiedRecord>, LookupError>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let found = records
            .values()
            .filter(|record| {
                let facts = record.record();
                DhtKey::of_offer(facts.node, facts.offer.as_ref()).contains(&key)
            })
            .cloned()
            .collect();
        Box::pin(async move { Ok(found) })
    }
}

impl StaticDirectory {
    fn sequence_of(&self, node: NodeId) -> Option<u64> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(&node).map(|record| record.record().sequence)
    }
}

/// Verifies signed records for a fixed list, all or nothing.
pub fn verify_all(
    records: impl IntoIterator<Item = SignedRecord>,
    unix_seconds: u64,
) -> Result<Vec<VerifiedRecord>, RecordError> {
    records.into_iter().map(|record| record.verify(unix_seconds)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{announcement, node_key};

    #[tokio::test]
    async fn members_find_what_others_announce_until_it_is_withdrawn() {
        let first = StaticDirectory::shared();
        let second = first.member();
        let (a, b) = (announcement(&node_key(1), "toy"), announcement(&node_key(2), "toy"));
        assert_eq!(first.announce(a.clone()).await.unwrap().kept, 4);
        second.announce(b.clone()).await.unwrap();
        assert_eq!(first.lookup_model_name("toy").await.unwrap().len(), 2);
        assert!(first.lookup_model_name("other").await.unwrap().is_empty());
        assert!(second.lookup_node(a.record().node).await.unwrap().is_some());
        first.withdraw().await.unwrap();
        let left = second.lookup_model_name("toy").await.unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].node(), b.record().node);
    }

    #[tokio::test]
    async fn a_fixed_list_refuses_announcements() {
        let record = announcement(&node_key(1), "toy").sign_at(unix_millis()).unwrap();
        let fixed = StaticDirectory::fixed(verify_all([record], unix_millis() / 1000).unwrap());
        assert_eq!(fixed.lookup_all_models().await.unwrap().len(), 1);
        let refused = fixed.announce(announcement(&node_key(2), "toy")).await;
        assert_eq!(refused, Err(PublishError::ReadOnly));
    }
}
