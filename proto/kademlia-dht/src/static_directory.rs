//! [`StaticDirectory`]: a fixed list of records in place of the DHT, for tests and for swarms without discovery.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::record::{DhtKey, SignedRecord, VerifiedRecord};
use proto::NodeId;

use crate::directory::{
    Announcement, Directory, DirectoryFuture, LookupError, PublishError, Published,
};

/// Records held in this process only. Clones share the list, so that an in-process swarm can announce into it.
///
/// Leases are not watched: a record stays until it is replaced or withdrawn.
#[derive(Debug, Clone, Default)]
pub struct StaticDirectory {
    // Bounded by what this process itself puts in: nothing arrives from the network.
    records: Arc<Mutex<BTreeMap<NodeId, VerifiedRecord>>>,
    announced: Option<NodeId>,
    writable: bool,
    unix_seconds: u64,
}

impl StaticDirectory {
    /// A read-only list.
    pub fn new(records: impl IntoIterator<Item = VerifiedRecord>) -> Self {
        let records = records.into_iter().map(|record| (record.node(), record)).collect();
        Self { records: Arc::new(Mutex::new(records)), ..Self::default() }
    }
}
