//! Trait [`Directory`]: how a process announces itself and finds others, whatever stands behind it.
//!
//! Two implementations: [`crate::Dht`] (the swarm's Kademlia) and [`crate::StaticDirectory`] (a fixed list).
//! Does not plan, rank or dial: what comes back are verified records, which are still only hints until the
//! peer's handshake proves who it is.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use proto::record::{DhtKey, NodeRecord, RecordError, SignedRecord, VerifiedRecord};
use proto::{ModelId, NodeId, NodeKey};

/// A boxed future, so that `dyn Directory` works.
pub type DirectoryFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where records are announced and looked up. Dyn-compatible: hold it as `Arc<dyn Directory>`.
pub trait Directory: Send + Sync + Debug {
    /// Publishes the announcement under all keys of its offer and keeps it alive: freshly signed at a third
    /// of its lease until [`Directory::withdraw`] or the end of the directory. A second call replaces the first.
    ///
    /// Returns when the first round of stores is over.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the announcement.
    fn announce(&self, announcement: Announcement) -> DirectoryFuture<'_, Result<Published, PublishError>>;

    /// Ends the announcement and publishes a tombstone in its place. Without an announcement it does nothing.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the announcement ended; the tombstone may reach fewer peers.
    fn withdraw(&self) -> DirectoryFuture<'_, Result<Published, PublishError>>;

    /// Publishes one signed record (or tombstone) once. It must be signed by this process's own node key:
    /// peers keep a record only if its signer brings it.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop stores under way.
    fn publish(&self, record: SignedRecord) -> DirectoryFuture<'_, Result<Published, PublishError>>;

    /// All live records under `key`, one per signer, ordered by signer. Nobody having announced anything is an
    /// empty list, not an error.
    ///
    /// # Cancel safety
    /// Safe; a dropped lookup runs on and its answer is thrown away.
    fn lookup(&self, key: DhtKey) -> DirectoryFuture<'_, Result<Vec<VerifiedRecord>, LookupError>>;

    /// The record of one node.
    fn lookup_node(&self, node: NodeId) -> DirectoryFuture<'_, Result<Option<VerifiedRecord>, LookupError>> {
        Box::pin(async move {
            let records = self.lookup(DhtKey::of_node(node)).await?;
            Ok(records.into_iter().find(|record| record.node() == node))
        })
    }

    /// Nodes that announced shards of these weights.
    fn lookup_model(&self, model: ModelId) -> DirectoryFuture<'_, Result<Vec<VerifiedRecord>, LookupError>> {
        self.lookup(DhtKey::of_model(model))
    }

    /// Nodes that announced shards under this name, possibly of different weights.
    fn lookup_model_name(&self, name: &str) -> DirectoryFuture<'_, Result<Vec<VerifiedRecord>, LookupError>> {
        self.lookup(DhtKey::of_model_name(name))
    }

    /// Nodes that announced any shard (at most 256 in all: a listing, not a census).
    fn lookup_all_models(&self) -> DirectoryFuture<'_, Result<Vec<VerifiedRecord>, LookupError>> {
        self.lookup(DhtKey::of_all_models())
    }
}

/// What a node announces and the key it signs with. Sequence, time of issue and tombstone flag of the record
/// are filled in afresh at each signing.
#[derive(Debug, Clone)]
pub struct Announcement {
    key: NodeKey,
    record: NodeRecord,
}

impl Announcement {
    /// Checks that `record` can be signed with `key`.
    pub fn new(key: NodeKey, record: NodeRecord) -> Result<Self, RecordError> {
        record.sign(&key)?;
        Ok(Self { key, record })
    }

    /// The facts announced.
    pub const fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// The record as of `unix_millis` (milliseconds since the Unix epoch).
    pub fn sign_at(&self, unix_millis: u64) -> Result<SignedRecord, RecordError> {
        self.stamped(unix_millis, false).sign(&self.key)
    }

    /// The tombstone that deletes it, as of `unix_millis`. It keeps the offer, so that it goes under the same keys.
    pub fn tombstone_at(&self, unix_millis: u64) -> Result<SignedRecord, RecordError> {
        self.stamped(unix_millis, true).sign(&self.key)
    }

    fn stamped(&self, unix_millis: u64, withdrawn: bool) -> NodeRecord {
        // A clock set back must not make the newer record lose.
        let sequence = unix_millis.max(self.record.sequence);
        NodeRecord { sequence, issued_unix_s: unix_millis / 1000, withdrawn, ..self.record.clone() }
    }
}

/// How far a record got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// Keys it was published under.
    pub keys: usize,
    /// Stores that remote peers acknowledged, over all keys. Zero for the first node of a swarm.
    pub kept: usize,
    /// Stores that peers refused.
    pub refused: usize,
    /// Stores that got no answer.
    pub unanswered: usize,
}

/// Why nothing was published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The record is not valid, so that every peer would refuse it.
    #[error("record would be refused by everyone: {0}")]
    Invalid(#[from] RecordError),
    /// Signed by somebody else: peers keep a record only if its signer brings it.
    #[error("record is signed by {signer}, but this process is {own}")]
    NotOurs {
        /// Who signed it.
        signer: NodeId,
        /// Who we are.
        own: NodeId,
    },
    /// Peers are known, but none of them kept it.
    #[error("no peer kept the record ({refused} refused, {unanswered} did not answer)")]
    NotKept {
        /// Stores refused.
        refused: usize,
        /// Stores without an answer.
        unanswered: usize,
    },
    /// Too many lookups and stores are under way.
    #[error("too many lookups and stores are under way: try again later")]
    Busy,
    /// The directory was shut down.
    #[error("directory was shut down")]
    ShutDown,
    /// A fixed list cannot be published to.
    #[error("directory is a fixed list: nothing can be announced in it")]
    ReadOnly,
}

impl PublishError {
    /// Whether trying again later may help.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NotKept { .. } | Self::Busy)
    }
}

/// Why a lookup has no answer at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Not one peer is known: bootstrap has not succeeded.
    #[error("no peer of the swarm is known: {0}")]
    NoPeers(String),
    /// Peers are known, but none of them answered.
    #[error("none of the {asked} peers asked answered")]
    Unanswered {
        /// Peers asked.
        asked: usize,
    },
    /// Too many lookups are under way.
    #[error("too many lookups are under way: try again later")]
    Busy,
    /// The directory was shut down.
    #[error("directory was shut down")]
    ShutDown,
}

impl LookupError {
    /// Whether trying again later may help.
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::ShutDown)
    }
}
