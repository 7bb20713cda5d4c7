//! A model's manifest and tokenizer by hash instead of from its files: from the per-user cache, else from nodes of
//! the swarm that serve the model. The hash makes them right whoever they come from; whether this machine's files
//! are that model's is checked elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kademlia_dht::{Dht, DhtConfig, Directory, JoinError, LookupError};
use proto::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError};
use proto::status::MAX_BLOB;
use proto::{ContentHash, ModelId, NodeId, NodeKey};
use proto_transport::blobs::{BlobCache, BlobError, BlobOrigin};
use proto_transport::{BindError, Endpoint, EndpointConfig, Peers, Target};

/// The swarm as a node sees it that has not joined it yet.
#[derive(Debug)]
pub struct ById<'a> {
    cache: &'a BlobCache,
    key: &'a NodeKey,
    bootstrap: &'a [Target],
}

/// Why nothing can be had by a model's id.
#[derive(Debug, thiserror::Error)]
pub enum ByIdError {
    /// Not in the cache, and nobody to ask.
    #[error(
        "the manifest with id {0} is not on this machine, and no peer is named that could have it: give --bootstrap, \
         or leave out --model-id to compute it from the files"
    )]
    NoBootstrap(ModelId),
    /// No port for asking.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No bootstrap peer answered.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The swarm did not answer.
    #[error("look up who serves the model with id {model}: {source}")]
    Lookup {
        /// Which.
        model: ModelId,
        /// What went wrong.
        source: LookupError,
    },
    /// No node announces that model.
    #[error("nobody serves a manifest with id {0}: leave out --model-id to compute it from the files")]
    Nobody(ModelId),
    /// Nodes announce it, but none gave it.
    #[error("{what} of model {model}: {source}; leave out --model-id to compute it from the files")]
    Blob {
        /// `manifest` or `tokenizer`.
        what: &'static str,
        /// Which.
        model: ModelId,
        /// Who was asked, and why the last one failed.
        source: BlobError,
    },
    /// The bytes have that hash, but are no manifest.
    #[error("{model} is not the id of a manifest that this version reads: {source}; check --model-id")]
    Manifest {
        /// Which.
        model: ModelId,
        /// What is wrong.
        source: ManifestError,
    },
}

impl<'a> ById<'a> {
    /// Asks as the node of `key`, through `bootstrap`, and keeps what it gets in `cache`.
    pub const fn new(cache: &'a BlobCache, key: &'a NodeKey, bootstrap: &'a [Target]) -> Self {
        Self { cache, key, bootstrap }
    }

    /// The manifest.
    pub async fn manifest(&self, model: ModelId) -> Result<Manifest, ByIdError> {
        let hash = ContentHash::from_bytes(*model.as_bytes());
        let bytes = self.blob("manifest", model, hash, MAX_MANIFEST_BYTES as u64).await?;
        Manifest::from_bytes(&bytes, model).map_err(|source| ByIdError::Manifest { model, source })
    }

    /// The manifest's `tokenizer.json`: from the cache, else what `from_files` finds if it is the right one, else from
    /// the swarm. `None` if the model has none.
    pub async fn tokenizer(
        &self,
        model: ModelId,
        manifest: &Manifest,
        from_files: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, ByIdError> {
        let Some(entry) = manifest.tokenizer else { return Ok(None) };
        if let Some(bytes) = self.cache.get(entry.blake3).await {
            return Ok(Some(bytes));
        }
        if let Some(bytes) = from_files().filter(|bytes| ContentHash::of(bytes) == entry.blake3) {
            return Ok(Some(bytes));
        }
        self.blob("tokenizer", model, entry.blake3, entry.bytes.min(MAX_BLOB)).await.map(Some)
    }

    async fn blob(
        &self,
        what: &'static str,
        model: ModelId,
        hash: ContentHash,
        limit: u64,
    ) -> Result<Vec<u8>, ByIdError> {
        if let Some(bytes) = self.cache.get(hash).await {
            tracing::info!(%model, "{what} found in the cache");
            return Ok(bytes);
        }
        if self.bootstrap.is_empty() {
            return Err(ByIdError::NoBootstrap(model));
        }
        let client = Client::start(self.key, self.bootstrap)?;
        let dht = Dht::start(client.endpoint.clone(), DhtConfig::client(self.bootstrap.to_vec())).await;
        let fetched = async {
            dht.joined(JOIN_PATIENCE).await?;
            let nodes = who_serves(&dht, model, self.key.node_id()).await?;
            let blob = self.cache.get_or_fetch(&client.peers, hash, limit, &nodes).await;
            blob.map_err(|source| ByIdError::Blob { what, model, source })
        }
        .await;
        dht.shutdown().await;
        client.endpoint.shutdown().await;
        let blob = fetched?;
        if let BlobOrigin::Node(node) = blob.origin {
            tracing::info!(%model, node = node.short(), bytes = blob.bytes.len(), "{what} fetched");
        }
        Ok(blob.bytes)
    }
}

/// A port that only asks.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    pub(crate) peers: Peers,
}

impl Client {
    pub(crate) fn start(key: &NodeKey, towards: &[Target]) -> Result<Self, BindError> {
        let mut config = EndpointConfig::new(key.clone(), any_port(towards));
        config.accept = false;
        let endpoint = Endpoint::bind(config)?;
        let peers = Peers::new(endpoint.clone(), MOST_ASKED);
        Ok(Self { endpoint, peers })
    }
}

/// Other nodes that announce the model. Looks again for a while: a swarm that starts together announces within seconds.
async fn who_serves(
    dht: &Dht,
    model: ModelId,
    asking: NodeId,
) -> Result<Vec<(NodeId, Vec<SocketAddr>)>, ByIdError> {
    let mut again = tokio::time::interval(LOOK_AGAIN);
    for _ in 0..LOOKS {
        again.tick().await;
        let found = dht.lookup_model(model).await.map_err(|source| ByIdError::Lookup { model, source })?;
        let nodes = found.iter().map(|record| (record.node(), record.record().addresses.clone()));
        let nodes = whom_to_ask(nodes.collect(), asking);
        if !nodes.is_empty() {
            return Ok(nodes);
        }
    }
    Err(ByIdError::Nobody(model))
}

/// A few of them, in an order of the asker's own, so that a thousand joiners do not all ask the same node; never
/// itself, whose record may have outlived an earlier process.
fn whom_to_ask(mut nodes: Vec<(NodeId, Vec<SocketAddr>)>, asking: NodeId) -> Vec<(NodeId, Vec<SocketAddr>)> {
    nodes.retain(|(node, _)| *node != asking);
    nodes.sort_by_key(|(node, _)| {
        let mut distance = *node.as_bytes();
        distance.iter_mut().zip(asking.as_bytes()).for_each(|(byte, other)| *byte ^= other);
        distance
    });
    nodes.truncate(MOST_ASKED);
    nodes
}

/// Any port: of both families if a peer needs IPv6, only of this machine if all are on it.
fn any_port(towards: &[Target]) -> SocketAddr {
    let v6 = towards.iter().any(|target| target.addr.is_ipv6());
    let local = towards.iter().all(|target| target.addr.ip().is_loopback());
    let ip: IpAddr = match (v6, local) {
        (false, true) => Ipv4Addr::LOCALHOST.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
        (true, _) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

/// How long the bootstrap peers have to answer: a dial takes up to 2 s, and one retry.
pub(crate) const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// Between two lookups of a model that nobody announced yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Lookups before giving up: a node announces within a second of being ready.
const LOOKS: usize = 5;
/// Nodes asked before giving up: any honest one has it, and one that is gone costs two seconds.
const MOST_ASKED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_asks_a_few_others_in_an_order_of_their_own() {
        let ids: Vec<NodeId> = (0..30).map(|seed| NodeKey::from_seed(&[seed; 32]).node_id()).collect();
        let mut first = std::collections::HashSet::new();
        for asking in &ids {
            let nodes = whom_to_ask(ids.iter().map(|node| (*node, Vec::new())).collect(), *asking);
            assert_eq!(nodes.len(), MOST_ASKED);
            assert!(nodes.iter().all(|(node, _)| node != asking));
            first.insert(nodes[0].0);
        }
        assert!(first.len() > 10, "{}", first.len());
    }

    #[tokio::test]
    async fn without_cache_and_peers_the_cure_is_said_and_the_cache_answers_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, key) = (BlobCache::at(folder.path()), NodeKey::from_seed(&[1; 32]));
        let by_id = ById::new(&cache, &key, &[]);
        let model = ModelId::from_bytes(*ContentHash::of(b"no manifest").as_bytes());
        let error = by_id.manifest(model).await.unwrap_err().to_string();
        assert!(error.contains("--bootstrap") && error.contains("leave out --model-id"), "{error}");
        cache.put(ContentHash::of(b"no manifest"), b"no manifest").await.unwrap();
        let error = by_id.manifest(model).await.unwrap_err();
        assert!(matches!(error, ByIdError::Manifest { .. }), "{error}");
    }

    #[test]
    fn a_port_for_asking_reaches_the_peers() {
        let target = |addr: &str| Target::trust_first(addr.parse().unwrap());
        for (peers, port) in [
            (vec![target("127.0.0.1:1")], "127.0.0.1:0"),
            (vec![target("127.0.0.1:1"), target("10.0.0.1:1")], "0.0.0.0:0"),
            (vec![target("10.0.0.1:1"), target("[fe80::1]:1")], "[::]:0"),
        ] {
            assert_eq!(any_port(&peers).to_string(), port);
        }
    }
}
