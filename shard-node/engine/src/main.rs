//! The engine's process: a node with libtorch. Started by `shard-node serve`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shard_node::cli::engine_main(&shard_node_engine::LibtorchEngine)
}
