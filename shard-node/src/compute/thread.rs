//! Birth and end of the compute thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use proto::{ModelId, NodeId};
use proto_keys::KeyRing;
use shard_node_stage::{LoadError, StageLoader, StageShape};
use tokio::sync::{mpsc, oneshot, watch};

use super::worker::Worker;
use super::{COMMAND_QUEUE, ComputeHandle, Load};
use crate::attest::Notary;
use crate::metrics::NodeMetrics;
use crate::session::Admission;
use crate::session::table::{SessionTable, TableLimits};

/// The running thread.
#[derive(Debug)]
pub(crate) struct ComputeThread {
    handle: ComputeHandle,
    notary: Option<Notary>,
    shape: StageShape,
    thread: thread::JoinHandle<()>,
    /// Closes when the thread is over, by return or by panic.
    ended: watch::Receiver<()>,
}

/// Why the thread does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadFailure {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the compute thread could not be started: {0}")]
    Spawn(std::io::Error),
    #[error("the compute thread died while loading; its last words stand above")]
    Died,
}

impl ComputeThread {
    /// Starts the thread, loads the stage on it, and returns when it is ready. What the stage is decides the
    /// `limits`. With keys, and so many bytes for rows behind receipts, it signs for what it computes.
    pub(crate) async fn start(
        loader: StageLoader,
        own: NodeId,
        model: ModelId,
        limits: impl FnOnce(StageShape) -> TableLimits + Send + 'static,
        metrics: NodeMetrics,
        signing: Option<(Arc<KeyRing>, u64)>,
    ) -> Result<Self, LoadFailure> {
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let (loaded, shape) = oneshot::channel();
        let (alive, ended) = watch::channel(());
        let (open_sessions, sessions) = watch::channel(0);
        let load = Arc::new(Load::default());
        let handle = ComputeHandle { commands, load: load.clone(), sessions };
        let notary = signing
            .map(|(keys, retain_bytes)| Notary::start(keys, handle.clone(), metrics.clone(), retain_bytes));
        let notary = notary.transpose();
        let notary = notary.map_err(LoadFailure::Spawn)?;
        let signs = notary.clone();
        let thread = thread::Builder::new()
            .name("compute".into())
            .spawn(move || {
                let _alive = alive;
                step_back();
                let stage = match loader() {
                    Ok(stage) => stage,
                    Err(error) => return drop(loaded.send(Err(error))),
                };
                let shape = stage.shape();
                let limits = limits(shape);
                load.kv_capacity.store(limits.kv_positions, Ordering::Relaxed);
                let table = SessionTable::new(Admission { own, model, shape }, limits);
                // Its metrics are there before the node says that it is ready.
                let worker = Worker::new(stage, table, queue, load, open_sessions, metrics, signs);
                if loaded.send(Ok(shape)).is_ok() {
                    worker.run();
                }
            })
            .map_err(LoadFailure::Spawn)?;
        let shape = shape.await.map_err(|_| LoadFailure::Died)??;
        Ok(Self { handle, notary, shape, thread, ended })
    }

    pub(crate) const fn handle(&self) -> &ComputeHandle {
        &self.handle
    }

    /// The thread that signs for what this one computes.
    pub(crate) const fn notary(&self) -> Option<&Notary> {
        self.notary.as_ref()
    }

    pub(crate) const fn shape(&self) -> StageShape {
        self.shape
    }

    /// A future that ends with the thread.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let mut ended = self.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }

    /// Whether it ended by a panic. Waits for the thread; call it after [`Self::ended`].
    pub(crate) fn panicked(self) -> bool {
        self.thread.join().is_err()
    }
}

/// Nice +5 for this thread and those that a tensor library starts from it: network threads, which have little to do
/// and much to delay, then wake first on a busy machine.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 5) {
        tracing::debug!(%error, "the compute thread keeps its priority");
    }
}
