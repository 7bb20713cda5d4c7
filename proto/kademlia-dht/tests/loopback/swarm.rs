//! A swarm of real DHT peers on loopback QUIC, each with its own accept loop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kademlia_dht::testing::{announcement, node_key};
use kademlia_dht::{Announcement, Dht, DhtConfig};
use proto_transport::{ConnectionClass, Endpoint, EndpointConfig, Target};
use tokio::task::JoinSet;

/// One peer. Dropping it without `stop` is what a killed process looks like from outside.
pub struct Peer {
    pub number: u64,
    pub endpoint: Endpoint,
    pub dht: Dht,
    tasks: JoinSet<()>,
}

impl Peer {
    pub async fn start(number: u64, bootstrap: Vec<Target>) -> Self {
        Self::start_with(number, DhtConfig::server(bootstrap)).await
    }

    pub async fn start_with(number: u64, config: DhtConfig) -> Self {
        let endpoint = bind(number);
        let dht = Dht::start(endpoint.clone(), config).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(endpoint.clone(), dht.clone()));
        Self { number, endpoint, dht, tasks }
    }

    pub fn target(&self) -> Target {
        Target::node(self.endpoint.node_id(), self.addr())
    }

    pub fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    pub fn announcement(&self, model: &str) -> Announcement {
        announcement(&node_key(self.number), model)
    }

    pub async fn stop(mut self) {
        self.dht.shutdown().await;
        self.endpoint.shutdown().await;
        self.tasks.shutdown().await;
    }
}

pub fn bind(number: u64) -> Endpoint {
    let config = EndpointConfig::new(node_key(number), SocketAddr::from(([127, 0, 0, 1], 0)));
    Endpoint::bind(config).unwrap()
}

/// `count` peers, all joined through the first.
pub async fn swarm(count: u64) -> Vec<Peer> {
    let first = Peer::start(0, Vec::new()).await;
    let bootstrap = vec![first.target()];
    let mut peers = vec![first];
    for number in 1..count {
        let peer = Peer::start(number, bootstrap.clone()).await;
        peer.dht.joined(PATIENCE).await.unwrap();
        peers.push(peer);
    }
    peers
}

/// Waits until `check` holds; looks again every few milliseconds.
pub async fn eventually(what: &str, check: impl AsyncFn() -> bool) {
    let wait = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("did not happen: {what}"));
}

pub fn with_state(mut config: DhtConfig, dir: PathBuf) -> DhtConfig {
    config.state_dir = Some(dir);
    config
}

pub fn shared(dht: &Dht) -> Arc<dyn kademlia_dht::Directory> {
    Arc::new(dht.clone())
}

pub const PATIENCE: Duration = Duration::from_secs(10);

async fn accept(endpoint: Endpoint, dht: Dht) {
    let mut connections = JoinSet::new();
    while let Some(connection) = endpoint.accept().await {
        assert_eq!(connection.class(), ConnectionClass::Discovery);
        let dht = dht.clone();
        connections.spawn(async move { dht.serve_connection(connection).await });
    }
}
