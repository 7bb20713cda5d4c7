//! Manifests and tokenizers by hash: from the cache, else from the nodes that should have them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::status::{BlobStart, Fetch, MAX_BLOB};
use proto::{ContentHash, FrameKind, Message, NodeId};
use proto_transport::{ConnectError, ConnectionClass, FrameReceiver, Peers, RecvError, RequestError};
use tokio::time::timeout;

use super::BlobCache;
use crate::metrics::{BlobSource, RouterMetrics};

/// How long a node may be silent between two parts; a part of 256 KiB takes 2 s at 1 Mbit/s.
const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches blobs and keeps them.
#[derive(Clone, Debug)]
pub struct Blobs {
    peers: Peers,
    cache: BlobCache,
    metrics: RouterMetrics,
}

/// Why a blob can't be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlobError {
    /// Nobody to ask.
    #[error("no node is known that could serve {0}")]
    Nobody(ContentHash),
    /// Each node asked failed; the last one's reason.
    #[error("none of {asked} nodes served {hash}; the last one, {node}: {why}", node = .node.short())]
    Failed {
        /// Which blob.
        hash: ContentHash,
        /// Nodes asked.
        asked: usize,
        /// The last of them.
        node: NodeId,
        /// Its reason.
        why: FetchError,
    },
}

/// Why one node did not serve a blob.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// It can't be dialled.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It can't be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Recv(#[from] RecvError),
    /// It does not have it.
    #[error("it does not have it")]
    NotFound,
    /// Nothing came for a while.
    #[error("nothing came for {} s", PART_TIMEOUT.as_secs())]
    Silent,
    /// The bytes are not what was asked for.
    #[error("its bytes are not what was asked for: {0}")]
    Wrong(&'static str),
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
        if let Some(bytes) = self.cache.get(hash).await {
            self.metrics.blob(BlobSource::Cache);
            return Ok(bytes);
        }
        let mut last = BlobError::Nobody(hash);
        for (node, addrs) in nodes {
            match self.fetch(hash, limit, *node, addrs).await {
                Ok(bytes) => {
                    self.metrics.blob(BlobSource::Node);
                    if let Err(error) = self.cache.put(hash, &bytes).await {
                        tracing::warn!(%error, "can't write to the cache; it will be fetched again next time");
                    }
                    return Ok(bytes);
                }
                Err(why) => last = BlobError::Failed { hash, asked: nodes.len(), node: *node, why },
            }
        }
        self.metrics.blob(BlobSource::Missing);
        Err(last)
    }

    async fn fetch(
        &self,
        hash: ContentHash,
        limit: u64,
        node: NodeId,
        addrs: &[SocketAddr],
    ) -> Result<Vec<u8>, FetchError> {
        let connection = self.peers.connection(node, addrs, ConnectionClass::Bulk).await?;
        let body = Fetch { hash }.encode();
        let mut answer = timeout(PART_TIMEOUT, connection.call(FrameKind::Fetch, body))
            .await
            .map_err(|_| FetchError::Silent)??;
        let (kind, body) = next(&mut answer).await?;
        if kind == FrameKind::NotFound {
            return Err(FetchError::NotFound);
        }
        let start = BlobStart::from_frame(kind, &body).map_err(|_| FetchError::Wrong("no blob"))?;
        if start.bytes > limit.min(MAX_BLOB) {
            return Err(FetchError::Wrong("too long"));
        }
        // Grows as bytes come, so that an announcement alone takes no memory.
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < start.bytes {
            let (kind, part) = next(&mut answer).await?;
            if kind != FrameKind::BlobPart || part.is_empty() {
                return Err(FetchError::Wrong("a part is missing"));
            }
            bytes.extend_from_slice(&part);
        }
        if bytes.len() as u64 != start.bytes || ContentHash::of(&bytes) != hash {
            return Err(FetchError::Wrong("they have another hash"));
        }
        Ok(bytes.into())
    }
}

async fn next(answer: &mut FrameReceiver) -> Result<(FrameKind, Bytes), FetchError> {
    let frame = timeout(PART_TIMEOUT, answer.recv()).await.map_err(|_| FetchError::Silent)??;
    frame.map(|frame| (frame.kind, frame.body)).ok_or(FetchError::Wrong("the answer ends early"))
}
