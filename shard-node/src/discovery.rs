//! How this node is found: the swarm's DHT, or a directory that somebody else keeps.

use std::path::PathBuf;
use std::sync::Arc;

use kademlia_dht::core::Peer;
use kademlia_dht::{Dht, DhtConfig, Directory, DiscoveryMetrics, Role};
use proto::FrameKind;
use proto_transport::{Connection, Endpoint, RawFrame, Target};

/// Where a node announces itself.
#[derive(Debug)]
pub enum Discovery {
    /// In the swarm's DHT, whose requests it also serves.
    Dht {
        /// Peers through which the swarm is found; empty for its first node.
        bootstrap: Vec<Target>,
        /// Where the routing table survives a restart.
        state_dir: Option<PathBuf>,
    },
    /// In this directory.
    Directory(Arc<dyn Directory>),
}

/// Answers the DHT's requests, if there is a DHT.
#[derive(Debug, Clone)]
pub(crate) struct DhtService(Option<Dht>);

impl Discovery {
    /// Starts the DHT on `endpoint`, or takes the directory.
    pub(crate) async fn start(
        self,
        endpoint: &Endpoint,
        advertised_port: Option<u16>,
        metrics: DiscoveryMetrics,
    ) -> (DhtService, Arc<dyn Directory>) {
        match self {
            Self::Dht { bootstrap, state_dir } => {
                let role = Role::Server { advertised_port };
                let config = DhtConfig { state_dir, role, metrics, ..DhtConfig::server(bootstrap) };
                let dht = Dht::start(endpoint.clone(), config).await;
                (DhtService(Some(dht.clone())), Arc::new(dht))
            }
            Self::Directory(directory) => (DhtService(None), directory),
        }
    }
}

impl DhtService {
    /// Whether frames of this kind are the DHT's.
    pub(crate) const fn serves(&self, kind: FrameKind) -> bool {
        self.0.is_some()
            && matches!(kind, FrameKind::Ping | FrameKind::FindNode | FrameKind::FindValue | FrameKind::Store)
    }

    /// The answer to a request; `None` = refuse it: it is junk, or the peer asks too fast.
    pub(crate) fn answer(&self, from: &Connection, request: &RawFrame) -> Option<RawFrame> {
        let peer = Peer { node: from.peer(), addr: from.remote_addr() };
        let (kind, body) = self.0.as_ref()?.handle_request(peer, request.kind, &request.body)?;
        Some(RawFrame { kind, body })
    }

    /// Ends the DHT's tasks and saves its table.
    pub(crate) async fn shutdown(&self) {
        if let Some(dht) = &self.0 {
            dht.shutdown().await;
        }
    }
}
