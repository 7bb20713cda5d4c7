//! What a [`Dht`](super::Dht) is started with.

use std::path::PathBuf;

use proto_transport::Target;

use crate::core::Limits;
use crate::metrics::DiscoveryMetrics;

/// Everything a DHT needs to know before it starts.
#[derive(Debug, Clone)]
pub struct DhtConfig {
    /// Peers through which the swarm is found; empty for the first node.
    pub bootstrap: Vec<Target>,
    /// Where the routing table survives a restart; `None` = nowhere.
    pub state_dir: Option<PathBuf>,
    /// Whether we answer and may stand in others' tables. A router is a client only.
    pub role: Role,
    /// Bounds of memory and rates.
    pub limits: Limits,
    /// Where to count.
    pub metrics: DiscoveryMetrics,
}

/// Whether others may know us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Asks, answers, holds records. The process must feed discovery connections to
    /// [`Dht::serve_connection`](super::Dht::serve_connection).
    Server {
        /// Port under which the endpoint can be dialled from outside; `None` = the one it is bound to.
        advertised_port: Option<u16>,
    },
    /// Only asks; enters nobody's table.
    Client,
}

impl DhtConfig {
    /// A server with default limits that keeps no state and counts nothing.
    pub fn server(bootstrap: Vec<Target>) -> Self {
        Self {
            bootstrap,
            state_dir: None,
            role: Role::Server { advertised_port: None },
            limits: Limits::default(),
            metrics: DiscoveryMetrics::default(),
        }
    }

    /// A client with default limits that keeps no state and counts nothing.
    pub fn client(bootstrap: Vec<Target>) -> Self {
        Self { role: Role::Client, ..Self::server(bootstrap) }
    }
}
