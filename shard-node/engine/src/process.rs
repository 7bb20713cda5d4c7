//! What the engine's process gives the node: loaders of libtorch stages.

use std::num::NonZeroUsize;

use shard_node::engine::{DeviceChoice as Asked, Engine, LoadRequest};
use shard_node_stage::StageLoader;

use crate::device::DeviceChoice;
use crate::loader::{EngineOptions, loader};

/// The engine behind `shard-node-engine`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LibtorchEngine;

impl Engine for LibtorchEngine {
    fn loader(&self, request: LoadRequest) -> StageLoader {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let options = EngineOptions {
            model: request.checkpoint,
            span: request.span,
            class: request.class,
            device: match request.device {
                Asked::Auto => DeviceChoice::Auto,
                Asked::Cpu => DeviceChoice::Cpu,
                Asked::Cuda(number) => DeviceChoice::Cuda(number as usize),
            },
            threads: request.threads.map_or(cores, NonZeroUsize::get),
        };
        loader(options, |progress| {
            tracing::debug!(read = progress.read, total = progress.total, "loading the shard");
        })
    }
}
