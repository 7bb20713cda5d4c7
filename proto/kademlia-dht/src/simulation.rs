//! A seeded swarm in virtual time: thousands of [`Core`]s, an event queue, and real encoded frames between them.
//!
//! Every request and reply is encoded to a frame (header and body) by `proto`'s codec and decoded on the other
//! side. Round trips are drawn per pair of nodes; a dead peer is a request that times out. One seed, one
//! outcome. What is not modelled: bandwidth, loss, and the handshake unless [`Config::handshakes`] is set.

mod network;
mod scenario;

pub use network::{Config, NodeIndex, Simulation};
pub use scenario::{Latencies, Report, dead_nodes, sybils_around_a_key};
