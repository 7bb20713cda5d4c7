//! The node's program. Links no tensor library; `serve` becomes `shard-node-engine`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shard_node::cli::node_main()
}
