//! Everything a node needs to know before its first socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::record::MAX_LEASE_S;
use proto::{ContentHash, ModelId, NodeKey};
use proto_keys::KeyRing;
use proto_transport::{EndpointConfig, Target};
use shard_node_stage::RowBudget;

/// A node with a stage.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Identity, address and numbers of the transport. Its metrics are replaced by the node's.
    pub endpoint: EndpointConfig,
    /// What to do when the port of `endpoint` is busy.
    pub port: PortChoice,
    /// Where others reach it, if not at the address bound.
    pub advertise: Option<SocketAddr>,
    /// The admin endpoint; `None` = none.
    pub admin: Option<AdminConfig>,
    /// What it serves.
    pub model: ServedModel,
    /// Positions of KV offered, no more than the device has memory for; `None` offers what it has, or
    /// [`DEFAULT_KV_POSITIONS`] where that is not known.
    pub kv_positions: Option<u64>,
    /// What it signs receipts with; `None` signs none.
    pub keys: Option<Arc<KeyRing>>,
    /// How long its record holds; republished at a third.
    pub record_lease: Duration,
    /// How long open sessions may go on after [`Node::shutdown`](super::Node::shutdown) was called.
    pub drain: Duration,
    /// The bounds.
    pub limits: NodeLimits,
}

/// A peer of the DHT without a stage.
#[derive(Debug, Clone)]
pub struct BootstrapConfig {
    /// Identity, address and numbers of the transport. Its metrics are replaced by the node's.
    pub endpoint: EndpointConfig,
    /// What to do when the port of `endpoint` is busy.
    pub port: PortChoice,
    /// Where others reach it, if not at the address bound.
    pub advertise: Option<SocketAddr>,
    /// The admin endpoint; `None` = none.
    pub admin: Option<AdminConfig>,
    /// Other peers; empty for the first one.
    pub bootstrap: Vec<Target>,
    /// Where the routing table survives a restart.
    pub state_dir: Option<PathBuf>,
}

/// What to do when a port is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// Fail: the user asked for this one.
    Exactly,
    /// Take the next free one: it was only a default.
    OrNextFree,
}

/// Where `/metrics`, `/livez` and `/readyz` are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminConfig {
    /// The address.
    pub addr: SocketAddr,
    /// What to do when its port is busy.
    pub port: PortChoice,
}

/// A model as a node serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// The name to announce it under.
    pub name: String,
    /// Its canonical manifest bytes.
    pub manifest: Bytes,
    /// Its `tokenizer.json`, if it has one.
    pub tokenizer: Option<Bytes>,
}

/// Bounds of a node.
#[derive(Debug, Clone, Copy)]
pub struct NodeLimits {
    /// Sessions open at once; at most the row groups of a frame.
    pub sessions: usize,
    /// Connections accepted at once.
    pub connections: usize,
    /// Rows of a step.
    pub budget: RowBudget,
    /// Most bytes of activations of a prefill chunk: decode frames of other connections wait behind at most this
    /// much on a shared line, 160 ms at 100 Mbit/s.
    pub chunk_bytes: usize,
    /// Positions of KV that may hold beginnings of prompts for reuse, while no session needs them; a quarter of all if
    /// nothing is said.
    pub prefix_positions: Option<u64>,
    /// Bytes of rows sent on that are held in case the next stage is lost: then only its layers are computed again.
    pub boundary_bytes: u64,
    /// Bytes of rows behind receipts that are held in case an audit asks for them.
    pub retain_bytes: u64,
}

/// [`NodeConfig::drain`] unless something is said: what most answers take; longer ones go elsewhere where they can.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(20);
/// [`NodeLimits::boundary_bytes`] unless something is said: 32 sessions of 4,096 positions with rows of 1,024 bf16
/// values.
pub const DEFAULT_BOUNDARY_BYTES: u64 = 256 << 20;
/// [`NodeLimits::retain_bytes`] unless something is said: 65,536 rows of 1,024 bf16 values, as received and as sent.
pub const DEFAULT_RETAIN_BYTES: u64 = 256 << 20;

impl NodeConfig {
    /// Defaults, listening exactly at `listen`, without an admin endpoint.
    pub fn new(key: NodeKey, listen: SocketAddr, model: ServedModel) -> Self {
        Self {
            endpoint: EndpointConfig::new(key, listen),
            port: PortChoice::Exactly,
            advertise: None,
            admin: None,
            model,
            kv_positions: None,
            keys: None,
            record_lease: Duration::from_secs(u64::from(MAX_LEASE_S)),
            drain: DEFAULT_DRAIN,
            limits: NodeLimits::default(),
        }
    }
}

impl BootstrapConfig {
    /// The first peer of a swarm, listening exactly at `listen`, without an admin endpoint.
    pub fn new(key: NodeKey, listen: SocketAddr) -> Self {
        Self {
            endpoint: EndpointConfig::new(key, listen),
            port: PortChoice::Exactly,
            advertise: None,
            admin: None,
            bootstrap: Vec::new(),
            state_dir: None,
        }
    }
}

/// Positions of KV that a node offers, from what its user `asked` for and what its device has `room` for.
pub(crate) fn kv_offered(asked: Option<u64>, room: Option<u64>) -> u64 {
    match (asked, room) {
        (Some(asked), Some(room)) => asked.min(room),
        (Some(positions), None) | (None, Some(positions)) => positions,
        (None, None) => DEFAULT_KV_POSITIONS,
    }
}

/// Positions of these for beginnings of prompts. A quarter: on a CPU the memory is taken as it fills, and what is kept
/// others on the machine miss.
pub(crate) fn prefix_offered(asked: Option<u64>, kv_positions: u64) -> u64 {
    asked.unwrap_or(kv_positions / 4).min(kv_positions)
}

/// 32 sessions of 2,048 positions: 1.4 GiB of bf16 KV over all layers of the 135M demo model.
pub const DEFAULT_KV_POSITIONS: u64 = 65_536;

impl ServedModel {
    /// The model's id: the hash of its manifest.
    pub fn id(&self) -> ModelId {
        ModelId::from_bytes(*ContentHash::of(&self.manifest).as_bytes())
    }
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            sessions: proto::activation::MAX_GROUPS,
            connections: 4096,
            // A chunk of 128 rows takes 0.1 to 0.5 s on a CPU with the demo model, which is what a decode row may
            // wait for a prefill; larger chunks are hardly more efficient, as 128 rows reuse each weight enough.
            budget: RowBudget::new(128),
            chunk_bytes: 2 << 20,
            prefix_positions: None,
            boundary_bytes: DEFAULT_BOUNDARY_BYTES,
            retain_bytes: DEFAULT_RETAIN_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_never_offers_more_kv_than_its_device_holds() {
        assert_eq!(kv_offered(None, None), DEFAULT_KV_POSITIONS);
        assert_eq!(kv_offered(Some(100), None), 100);
        assert_eq!(kv_offered(None, Some(7_000_000)), 7_000_000);
        assert_eq!(kv_offered(Some(8_000_000), Some(7_000_000)), 7_000_000);
        assert_eq!(kv_offered(Some(100), Some(7_000_000)), 100);
        assert_eq!([None, Some(0), Some(500)].map(|asked| prefix_offered(asked, 400)), [100, 0, 400]);
    }
}
