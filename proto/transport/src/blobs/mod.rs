//! Blobs by hash, such as manifests and tokenizers: from a folder on this machine, else from peers that serve them.
//! Whoever serves one need not be trusted: bytes with another hash are never returned and never kept. Who could
//! have a blob, and what it means, is the caller's.

mod cache;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::handshake::ConnectionClass;
use proto::status::{BlobStart, Fetch, MAX_BLOB};
use proto::{ContentHash, FrameKind, Message, NodeId};
use tokio::time::timeout;

pub use cache::BlobCache;

use crate::{ConnectError, FrameReceiver, Peers, RecvError, RequestError};

/// A blob with the hash that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where they came from.
    pub origin: BlobOrigin,
}

/// Where a blob came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobOrigin {
    /// It was on this machine.
    Cache,
    /// This node served it.
    Node(NodeId),
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
    #[error("nothing came for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It sends, but so slowly that another node is a better choice.
    #[error("it sends slower than {} kB/s", SLOWEST / 1000)]
    Slow,
    /// The bytes are not what was asked for.
    #[error("its bytes are not what was asked for: {0}")]
    Wrong(&'static str),
}

impl BlobCache {
    /// The bytes with this hash, at most `limit` long: from here, else as by [`fetch_blob`], and then kept here. A
    /// folder that can't be written to is logged and costs time only.
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`put`](Self::put).
    pub async fn get_or_fetch(
        &self,
        peers: &Peers,
        hash: ContentHash,
        limit: u64,
        nodes: &[(NodeId, Vec<SocketAddr>)],
    ) -> Result<Blob, BlobError> {
        if let Some(bytes) = self.get(hash).await {
            return Ok(Blob { bytes, origin: BlobOrigin::Cache });
        }
        let blob = fetch_blob(peers, hash, limit, nodes).await?;
        if let Err(error) = self.put(hash, &blob.bytes).await {
            tracing::warn!(%error, "can't write to the cache; it will be fetched again next time");
        }
        Ok(blob)
    }
}

/// The bytes with this hash, at most `limit` long, over `peers`' bulk connections. `nodes` are asked one after the
/// other until one has them.
///
/// # Cancel safety
/// Cancel-safe.
pub async fn fetch_blob(
    peers: &Peers,
    hash: ContentHash,
    limit: u64,
    nodes: &[(NodeId, Vec<SocketAddr>)],
) -> Result<Blob, BlobError> {
    fetch_from_any(peers, hash, limit, nodes, PATIENCE).await
}

async fn fetch_from_any(
    peers: &Peers,
    hash: ContentHash,
    limit: u64,
    nodes: &[(NodeId, Vec<SocketAddr>)],
    patience: Duration,
) -> Result<Blob, BlobError> {
    let mut last = BlobError::Nobody(hash);
    for (node, addrs) in nodes {
        match fetch_from(peers, hash, limit, (*node, addrs), patience).await {
            Ok(bytes) => return Ok(Blob { bytes, origin: BlobOrigin::Node(*node) }),
            Err(why) => last = BlobError::Failed { hash, asked: nodes.len(), node: *node, why },
        }
    }
    Err(last)
}

async fn fetch_from(
    peers: &Peers,
    hash: ContentHash,
    limit: u64,
    (node, addrs): (NodeId, &[SocketAddr]),
    patience: Duration,
) -> Result<Vec<u8>, FetchError> {
    let connection = peers.connection(node, addrs, ConnectionClass::Bulk).await?;
    let body = Fetch { hash }.encode();
    let mut answer = timeout(patience, connection.call(FrameKind::Fetch, body))
        .await
        .map_err(|_| FetchError::Silent(patience))??;
    let bytes = receive(&mut answer, limit, patience).await?;
    if ContentHash::of(&bytes) != hash {
        return Err(FetchError::Wrong("they have another hash"));
    }
    Ok(bytes.into())
}

/// Bytes that are sent as blobs are, at most `limit`; what they are is for the caller to check.
///
/// # Cancel safety
/// Not cancel-safe: what has come is lost.
pub async fn receive_blob(answer: &mut FrameReceiver, limit: u64) -> Result<Bytes, FetchError> {
    Ok(receive(answer, limit, PATIENCE).await?.freeze())
}

async fn receive(answer: &mut FrameReceiver, limit: u64, patience: Duration) -> Result<BytesMut, FetchError> {
    let (kind, body) = next(answer, patience).await?;
    if kind == FrameKind::NotFound {
        return Err(FetchError::NotFound);
    }
    let start = BlobStart::from_frame(kind, &body).map_err(|_| FetchError::Wrong("no blob"))?;
    if start.bytes > limit.min(MAX_BLOB) {
        return Err(FetchError::Wrong("too long"));
    }
    let longest = patience + Duration::from_secs(start.bytes / SLOWEST);
    timeout(longest, parts(answer, start.bytes, patience)).await.map_err(|_| FetchError::Slow)?
}

/// All parts of a blob of this length.
async fn parts(answer: &mut FrameReceiver, length: u64, patience: Duration) -> Result<BytesMut, FetchError> {
    // Grows as bytes come, so that an announcement alone takes no memory.
    let mut bytes = BytesMut::new();
    while (bytes.len() as u64) < length {
        let (kind, part) = next(answer, patience).await?;
        if kind != FrameKind::BlobPart || part.is_empty() {
            return Err(FetchError::Wrong("a part is missing"));
        }
        bytes.extend_from_slice(&part);
    }
    if bytes.len() as u64 != length {
        return Err(FetchError::Wrong("they are longer than announced"));
    }
    Ok(bytes)
}

async fn next(answer: &mut FrameReceiver, patience: Duration) -> Result<(FrameKind, Bytes), FetchError> {
    let frame = timeout(patience, answer.recv()).await.map_err(|_| FetchError::Silent(patience))??;
    frame.map(|frame| (frame.kind, frame.body)).ok_or(FetchError::Wrong("the answer ends early"))
}

/// How long a node may be silent between two parts; a part of 256 KiB takes 2 s at 1 Mbit/s.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes per second below which a node is given up: 1 Mbit/s, so that crumbs don't keep anybody waiting for ever.
const SLOWEST: u64 = 125_000;
