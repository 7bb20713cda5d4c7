//! The threads that hold a span's tensors against the manifest while it is being loaded.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use shard_node_weights::StoredTensor;
use shard_node_weights::manifest::{SpanCheck, VerifyError};

use crate::error::EngineError;

/// Checks under way. Dropped, it stops them.
#[derive(Debug)]
pub(crate) struct Checking {
    check: Arc<SpanCheck>,
    threads: Vec<JoinHandle<Result<(), VerifyError>>>,
}

impl Checking {
    /// Begins. The more threads the better: hashing is arithmetic, half of it beside a loader that waits for memory.
    pub(crate) fn start(check: SpanCheck) -> Self {
        let check = Arc::new(check);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let start = |number| {
            let check = check.clone();
            Builder::new().name(format!("check-{number}")).spawn(move || check.run()).ok()
        };
        let threads = (0..cores.min(MOST_THREADS)).filter_map(start).collect();
        Self { check, threads }
    }

    /// Whether the tensor is among those that are checked.
    pub(crate) fn includes(&self, tensor: &StoredTensor) -> bool {
        self.check.includes(tensor)
    }

    /// Waits for the end; an error if any tensor is not the manifest's.
    pub(crate) fn finish(mut self) -> Result<(), EngineError> {
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(checked) => checked?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        // Nothing is left unless no thread could be started.
        Ok(self.check.run()?)
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.check.stop();
        for thread in self.threads.drain(..) {
            // Its verdict is not wanted any more.
            let _ = thread.join();
        }
    }
}

/// Together they hash faster than a disk or a page cache gives.
const MOST_THREADS: usize = 8;
