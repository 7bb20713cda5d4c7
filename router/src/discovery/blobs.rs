//! Manifests and tokenizers by hash, counted: from the cache, else from the nodes that should have them.

use std::net::SocketAddr;

use proto::{ContentHash, NodeId};
use proto_transport::Peers;
use proto_transport::blobs::{BlobCache, BlobError, BlobOrigin};

use crate::metrics::{BlobSource, RouterMetrics};

/// Fetches blobs and keeps them.
#[derive(Clone, Debug)]
pub struct Blobs {
    peers: Peers,
    cache: BlobCache,
    metrics: RouterMetrics,
}

impl Blobs {
    /// Fetches over `peers`' bulk connections, keeps in `cache`.
    pub const fn new(peers: Peers, cache: BlobCache, metrics: RouterMetrics) -> Self {
        Self { peers, cache, metrics }
    }

    /// The bytes with this hash, at most `limit` long. `nodes` are asked one after the other.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn get(
        &self,
        hash: ContentHash,
        limit: u64,
        nodes: &[(NodeId, Vec<SocketAddr>)],
    ) -> Result<Vec<u8>, BlobError> {
        let got = self.cache.get_or_fetch(&self.peers, hash, limit, nodes).await;
        self.metrics.blob(match got.as_ref().map(|blob| blob.origin) {
            Ok(BlobOrigin::Cache) => BlobSource::Cache,
            Ok(BlobOrigin::Node(_)) => BlobSource::Node,
            Err(_) => BlobSource::Missing,
        });
        got.map(|blob| blob.bytes)
    }
}
