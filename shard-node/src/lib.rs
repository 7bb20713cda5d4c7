//! A node of the swarm: serves one shard of a model.
//!
//! Links no tensor library: the engine's process gives [`Engine`](engine::Engine) and calls [`cli::engine_main`];
//! tests give a [`ToyStage`](shard_node_stage::ToyStage).

mod attest;
pub mod audit;
mod blobs;
pub mod by_id;
pub mod cli;
mod clock;
mod compute;
pub mod discovery;
pub mod engine;
mod grammar;
pub mod hub;
pub mod identity;
mod inbound;
pub mod launch;
mod links;
pub mod metrics;
pub mod node;
pub mod paths;
pub mod session;
pub mod settings;
pub mod setup;
mod transit;
