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
pub(crate) struct Peer {
    pub(crate) number: u64,
    pub(crate) endpoint: Endpoint,
    pub(crate) dht: Dht,
    tasks: JoinSet<()>,
}

impl Peer {
    pub(crate) async fn start(number: u64, bootstrap: Vec<Target>) -> Self {
        Self::start_with(number, DhtConfig::server(bootstrap)).await
    }

    pub(crate) async fn start_with(number: u64, config: DhtConfig) -> Self {
        let endpoint = bind(number);
        let dht = Dht::start(endpoint.clone(), config).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(endpoint.clone(), dht.clone()));
        Self { number, endpoint, dht, tasks }
    }

    pub(crate) fn target(&self) -> Target {
        Target::node(self.endpoint.node_id(), self.addr())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    pub(crate) fn announcement(&self, model: &str) -> Announcement {
        announcement(&node_key(self.number), model)
    }

    pub(crate) async fn stop(mut self) {
        self.dht.shutdown().await;
        self.endpoint.shutdown().await;
        self.tasks.shutdown().await;
    }
}

pub(crate) fn bind(number: u64) -> Endpoint {
    let config = EndpointConfig::new(node_key(number), SocketAddr::from(([127, 0, 0, 1], 0)));
    Endpoint::bind(config).expect("loopback has free ports")
}

/// `count` peers, all joined through the first.
pub(crate) async fn swarm(count: u64) -> Vec<Peer> {
    let first = Peer::start(0, Vec::new()).await;
    let bootstrap = vec![first.target()];
    let mut peers = vec![first];
    for number in 1..count {
        let peer = Peer::start(number, bootstrap.clone()).await;
        peer.dht.joined(PATIENCE).await.expect("the first peer is there");
        peers.push(peer);
    }
    peers
}

/// Waits until `check` holds; looks again every few milliseconds.
pub(crate) async fn eventually(what: &str, check: impl AsyncFn() -> bool) {
    let wait = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("did not happen: {what}"));
}

pub(crate) fn with_state(mut config: DhtConfig, dir: PathBuf) -> DhtConfig {
    config.state_dir = Some(dir);
    config
}

pub(crate) fn shared(dht: &Dht) -> Arc<dyn kademlia_dht::Directory> {
    Arc::new(dht.clone())
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

async fn accept(endpoint: Endpoint, dht: Dht) {
    let mut connections = JoinSet::new();
    while let Some(connection) = endpoint.accept().await {
        assert_eq!(connection.class(), ConnectionClass::Discovery);
        let dht = dht.clone();
        connections.spawn(async move { dht.serve_connection(connection).await });
    }
}
