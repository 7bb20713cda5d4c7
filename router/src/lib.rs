//! Front door of the swarm: discovers shards, plans a route, drives sessions, streams tokens out. Never links libtorch.

pub mod attest;
pub mod clock;
pub mod discovery;
pub mod driver;
pub mod generate;
pub mod keys;
pub mod metrics;
pub mod model;
mod router;
pub mod serve;
pub mod session;

pub use router::Router;
