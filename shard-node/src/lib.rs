//! A node of the swarm: serves one shard of a model.
//!
//! Links no tensor library: the engine's process gives [`Engine`](engine::Engine) and calls [`cli::engine_main`];
//! tests give a [`ToyStage`](shard_node_stage::ToyStage).

pub mod cli;
pub mod engine;
pub mod session;
