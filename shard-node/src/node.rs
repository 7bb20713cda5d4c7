//! A running node: [`Node`] with a stage, [`BootstrapNode`] for discovery only.
//!
//! ```text
//! bind: ports -> load on the compute thread -> accept -> announce    ready
//! shutdown: withdraw -> refuse -> wait for sessions, bounded -> fail the rest -> close
//! ```

mod bootstrap;
mod config;
mod ready;
mod shell;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kademlia_dht::{Announcement, Directory};
use proto::NodeKey;
use proto::manifest::Manifest;
use proto::record::{MAX_LEASE_S, NodeRecord, RecordError, ShardOffer};
use proto_telemetry::{BuildLabels, ReadyState, register_build};
use proto_transport::Peers;
use shard_node_stage::{LoadError, StageLoader, StageShape};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::blobs::Blobs;
use crate::compute::{Command, ComputeThread, LoadFailure};
use crate::discovery::{DhtService, Discovery};
use crate::grammar::Grammars;
use crate::inbound::{Inbound, STANDBY_DIALS, Serving};
use crate::links::{LinkIds, Links};
use crate::session::Admission;
use crate::session::table::TableLimits;
use shell::Shell;

pub use bootstrap::BootstrapNode;
pub use config::{
    AdminConfig, BootstrapConfig, DEFAULT_BOUNDARY_BYTES, DEFAULT_DRAIN, DEFAULT_KV_POSITIONS,
    DEFAULT_RETAIN_BYTES, NodeConfig, NodeLimits, PortChoice, ServedModel,
};
use config::{kv_offered, prefix_offered};
pub use ready::Ready;
pub use shell::ShellError;

/// A node that serves a stage.
#[derive(Debug)]
pub struct Node {
    shell: Shell,
    compute: ComputeThread,
    directory: Arc<dyn Directory>,
    dht: DhtService,
    ready: Ready,
    drain: Duration,
    /// Writers of reports, which outlive the compute thread by a moment.
    writers: TaskTracker,
}

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BindNodeError {
    /// A port or a metric.
    #[error(transparent)]
    Shell(#[from] ShellError),
    /// The stage could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The compute thread could not be started, or died.
    #[error("{0}")]
    Compute(String),
    /// What it would announce is not a valid record.
    #[error("this node can't be announced: {0}; check --advertise and --name")]
    Record(#[from] RecordError),
}

/// Why a running node can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeFault {
    /// The compute thread is gone; sessions can't be served.
    #[error("the compute thread ended; its last words stand above")]
    ComputeEnded,
}

impl Node {
    /// Binds, loads, serves, announces. Returns when the stage is loaded, peers can dial, and the record is
    /// published; after a while without success the announcement goes on by itself.
    pub async fn bind(
        config: NodeConfig,
        discovery: Discovery,
        loader: StageLoader,
    ) -> Result<Self, BindNodeError> {
        let NodeConfig {
            endpoint,
            port,
            advertise,
            admin,
            model,
            kv_positions,
            keys,
            record_lease,
            drain,
            limits,
        } = config;
        let key = endpoint.key.clone();
        let shell = Shell::bind(endpoint, port, admin, format!("loading {}", model.name)).await?;
        let labels =
            BuildLabels { program: "shard-node", version: env!("CARGO_PKG_VERSION"), protocol: PROTOCOL };
        register_build(&shell.registry, labels).map_err(ShellError::from)?;
        let asked = kv_positions;
        let signing = keys.map(|keys| (keys, limits.retain_bytes));
        let table = move |shape: StageShape| {
            let kv_positions = kv_offered(asked, shape.kv_positions);
            TableLimits {
                kv_positions,
                prefix_positions: prefix_offered(limits.prefix_positions, kv_positions),
                boundary_bytes: limits.boundary_bytes,
                sessions: limits.sessions.min(proto::activation::MAX_GROUPS),
                budget: limits.budget,
                chunk_bytes: limits.chunk_bytes,
            }
        };
        let compute =
            ComputeThread::start(loader, key.node_id(), model.id(), table, shell.metrics.clone(), signing)
                .await?;
        let shape = compute.shape();
        let kv_positions = kv_offered(asked, shape.kv_positions);
        if asked.is_some_and(|asked| asked > kv_positions) {
            tracing::warn!(
                asked,
                kv_positions,
                "the device has room for fewer positions of KV than asked for"
            );
        }

        let mut ready = Ready::new(key.node_id(), shell.endpoint.local_addr(), shell.admin_addr());
        ready.model = Some(model.name.clone());
        ready.model_id = Some(model.id());
        ready.layers = Some(shape.span);
        let advertised = shell.advertised(advertise);
        let announcement = announcement(key, advertised, &model, shape, kv_positions, record_lease)?;
        let (dht, directory) =
            discovery.start(&shell.endpoint, Some(advertised.port()), shell.discovery_metrics.clone()).await;

        let (writers, own, model_id) = (TaskTracker::new(), ready.node, model.id());
        let ids = LinkIds::default();
        let peers = Peers::new(shell.endpoint.clone(), MOST_NEIGHBOURS);
        let links = Arc::new(Links::new(peers, compute.handle().clone(), shell.tasks.clone(), ids.clone()));
        let eos = Manifest::from_bytes(&model.manifest, model.id()).map(|manifest| manifest.eos);
        let grammars =
            Grammars::new(model.tokenizer.clone(), eos.unwrap_or_default(), shape.vocab, writers.clone());
        let blobs = Blobs::new([Some(model.manifest), model.tokenizer].into_iter().flatten());
        shell.accept(Inbound {
            dht: dht.clone(),
            serving: Some(Serving {
                compute: compute.handle().clone(),
                notary: compute.notary().cloned(),
                links: links.clone(),
                ids,
                blobs,
                grammars,
                admission: Admission { own, model: model_id, shape },
                shape,
                writers: writers.clone(),
                standby_dials: Arc::new(Semaphore::new(STANDBY_DIALS)),
            }),
            metrics: shell.metrics.clone(),
            tasks: shell.connections.clone(),
            most_connections: limits.connections,
        });
        let node = Self { shell, compute, directory, dht, ready, drain, writers };
        node.spawn_beat(links);
        let announced = node.spawn_announce(announcement);
        // A router that is started because of our ready line should find us.
        if tokio::time::timeout(ANNOUNCE_PATIENCE, announced).await.is_err() {
            tracing::warn!("ready, but not announced yet: others find this node later");
        }
        Ok(node)
    }

    /// Who and where it is.
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Load at this moment.
    pub fn status(&self) -> proto::status::NodeStatus {
        self.compute.handle().status()
    }

    /// All metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        self.shell.registry.encode().unwrap_or_default()
    }

    /// Waits for a fault that makes the node useless. Without one it never returns.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn join(&self) -> NodeFault {
        self.compute.ended().await;
        NodeFault::ComputeEnded
    }

    /// Leaves: withdraws the record, refuses new sessions, waits for the open ones as long as the configuration
    /// allows, fails the rest, and ends.
    pub async fn shutdown(self) {
        self.shell.readiness.set(ReadyState::Draining);
        let handle = self.compute.handle().clone();
        handle.send(Command::Drain).await;
        // Routers look elsewhere from now on.
        match tokio::time::timeout(WITHDRAW, self.directory.withdraw()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "record not withdrawn: it expires"),
            Err(_) => tracing::debug!("record not withdrawn in time: it expires"),
        }
        tokio::select! {
            idle = tokio::time::timeout(self.drain, handle.idle()) => if idle.is_err() {
                let open = handle.status().sessions;
                tracing::warn!(open, "sessions did not end in time: they are failed");
            },
            () = self.compute.ended() => {}
        }
        self.end().await;
    }

    /// Ends at once: open sessions are failed, the record is left to expire.
    pub async fn stop_now(self) {
        self.shell.readiness.set(ReadyState::Draining);
        self.end().await;
    }

    async fn end(self) {
        let ended = self.compute.ended();
        self.compute.handle().send(Command::ShutDown).await;
        // A step under way is finished first; a hung one is left to the end of the process.
        if tokio::time::timeout(LAST_STEP, ended).await.is_err() {
            tracing::error!("the compute thread hangs in a step");
        } else if self.compute.panicked() {
            tracing::error!("the compute thread had died");
        }
        self.writers.close();
        let _ = tokio::time::timeout(LAST_WORDS, self.writers.wait()).await;
        self.dht.shutdown().await;
        self.shell.shutdown().await;
    }

    /// The node's clock: leases, progress, idle links.
    fn spawn_beat(&self, links: Arc<Links>) {
        let (compute, stop) = (self.compute.handle().clone(), self.shell.stop.clone());
        self.shell.tasks.spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = beat.tick() => {
                        compute.poke(Command::Tick);
                        links.sweep();
                    }
                }
            }
        });
    }

    /// A first announcement may have nobody to go to, and is repeated; the directory keeps it alive afterwards. What
    /// is returned ends with the first attempt that succeeds or can't be repeated.
    fn spawn_announce(&self, announcement: Announcement) -> oneshot::Receiver<()> {
        let (done, announced) = oneshot::channel();
        let (directory, stop) = (self.directory.clone(), self.shell.stop.clone());
        let announce = async move {
            loop {
                match directory.announce(announcement.clone()).await {
                    Ok(published) => {
                        tracing::info!(?published, "announced");
                        return;
                    }
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(%error, "not announced yet");
                        tokio::time::sleep(ANNOUNCE_AGAIN).await;
                    }
                    Err(error) => {
                        tracing::error!(%error, "this node can't be found by others");
                        return;
                    }
                }
            }
        };
        self.shell.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Nobody waits any more after ANNOUNCE_PATIENCE.
                () = announce => drop(done.send(())),
            }
        });
        announced
    }
}

impl From<LoadFailure> for BindNodeError {
    fn from(failure: LoadFailure) -> Self {
        match failure {
            LoadFailure::Load(error) => Self::Load(error),
            other => Self::Compute(other.to_string()),
        }
    }
}

fn announcement(
    key: NodeKey,
    addr: SocketAddr,
    model: &ServedModel,
    shape: StageShape,
    kv_capacity: u64,
    lease: Duration,
) -> Result<Announcement, RecordError> {
    let offer = ShardOffer {
        model: model.id(),
        model_name: model.name.clone(),
        n_layers: shape.n_layers,
        span: shape.span,
        class: shape.class,
        kv_capacity,
    };
    let now = crate::clock::unix_nanos();
    let record = NodeRecord {
        node: key.node_id(),
        addresses: vec![addr],
        offer: Some(offer),
        version: env!("CARGO_PKG_VERSION").into(),
        sequence: now / 1_000_000,
        issued_unix_s: now / 1_000_000_000,
        lease_s: u32::try_from(lease.as_secs()).unwrap_or(MAX_LEASE_S).clamp(1, MAX_LEASE_S),
        withdrawn: false,
    };
    Announcement::new(key, record)
}

/// As in the ALPN.
const PROTOCOL: &str = "1";
/// `docs/PROTOCOL.md` 3.6.
const BEAT: Duration = Duration::from_millis(100);
/// Peers of a pipeline: as many as a stage can have neighbours.
const MOST_NEIGHBOURS: usize = 512;
/// A round of stores takes well under a second; a swarm that is gone must not hold up the end.
const WITHDRAW: Duration = Duration::from_secs(2);
/// Longer than any step; SIGKILL follows in most set-ups after ten seconds.
const LAST_STEP: Duration = Duration::from_secs(5);
/// A last report reaches a router within a round trip; a router that is gone must not hold up the end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A round of lookups and stores takes well under a second; with a table of peers that are all gone, a few dials.
const ANNOUNCE_PATIENCE: Duration = Duration::from_secs(5);
/// Bootstrap peers come up within seconds of each other.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);
