//! Front door of the swarm: discovers shards, plans a route, drives sessions, streams tokens out. Never links libtorch.

pub mod driver;
pub mod metrics;
pub mod session;
