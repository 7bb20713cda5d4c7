//! The command line, shared by `shard-node` and `shard-node-engine`.

use std::process::ExitCode;

use crate::engine::Engine;

/// `main` of the engine's binary: parses the command line (`shard-node-engine serve ...`), serves with `engine`,
/// prints errors to stderr. Installs logging and builds the runtime; the caller does neither.
pub fn engine_main(engine: &dyn Engine) -> ExitCode {
    let _ = engine;
    ExitCode::FAILURE
}
