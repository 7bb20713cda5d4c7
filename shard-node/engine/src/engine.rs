//! What the node's side calls: the engine that makes libtorch stages.

use shard_node::engine::{Engine, LoadRequest};
use shard_node_stage::StageLoader;

use crate::loader::{EngineOptions, loader};

/// Computes with libtorch.
#[derive(Debug, Clone, Copy, Default)]
pub struct LibtorchEngine;

impl Engine for LibtorchEngine {
    fn loader(&self, request: LoadRequest) -> StageLoader {
        let LoadRequest { checkpoint, manifest, span, class, device, threads } = request;
        let options = EngineOptions {
            model: checkpoint,
            manifest: Some(manifest),
            span,
            class,
            device,
            threads: threads.map(std::num::NonZeroUsize::get),
        };
        let mut told = 0;
        loader(options, move |progress| {
            let quarter = progress.read * 4 / progress.total.max(1);
            if quarter > told {
                told = quarter;
                tracing::info!(percent = quarter * 25, bytes = progress.total, "loading the shard");
            }
        })
    }
}
