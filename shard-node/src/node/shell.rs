//! What every process of ours has, with or without a stage: endpoint, metrics, admin endpoint, accept loop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kademlia_dht::DiscoveryMetrics;
use proto_telemetry::{
    AdminServer, BindAdminError, Readiness, ReadyState, RegisterMetricError, Registry, register_process,
};
use proto_transport::{BindError, Endpoint, EndpointConfig, TransportMetrics};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{AdminConfig, PortChoice};
use crate::inbound::Inbound;
use crate::metrics::NodeMetrics;

/// The common part of a running process.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) endpoint: Endpoint,
    pub(super) admin: Option<AdminServer>,
    pub(super) readiness: Readiness,
    pub(super) registry: Registry,
    pub(super) metrics: NodeMetrics,
    pub(super) discovery_metrics: DiscoveryMetrics,
    /// All tasks but the transport's, the DHT's and those below.
    pub(super) tasks: TaskTracker,
    /// One for each connection that a peer dialled.
    pub(super) connections: TaskTracker,
    /// Ends them.
    pub(super) stop: CancellationToken,
}

/// Why the common part could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The QUIC port can't be had.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The admin port can't be had.
    #[error(transparent)]
    Admin(#[from] BindAdminError),
    /// Two metrics of one name: a mistake in this program.
    #[error(transparent)]
    Metrics(#[from] RegisterMetricError),
    /// The same, in a crate that registers by itself.
    #[error("register metrics: {0}")]
    Register(#[from] prometheus::Error),
}

impl Shell {
    /// Binds both ports. Nothing is accepted yet but `/metrics`, `/livez` and `/readyz`.
    pub(super) async fn bind(
        mut endpoint: EndpointConfig,
        port: PortChoice,
        admin: Option<AdminConfig>,
        waiting_for: String,
    ) -> Result<Self, ShellError> {
        let registry = Registry::new();
        register_process(&registry)?;
        let metrics = NodeMetrics::new(&registry)?;
        endpoint.metrics = TransportMetrics::new(registry.as_prometheus())?;
        let discovery_metrics = DiscoveryMetrics::new(registry.as_prometheus())?;
        let endpoint = bind_endpoint(endpoint, port)?;
        let readiness = Readiness::starting(waiting_for);
        let admin = match admin {
            Some(AdminConfig { addr, port: PortChoice::Exactly }) => {
                Some(AdminServer::bind(addr, registry.clone(), readiness.clone()).await?)
            }
            Some(AdminConfig { addr, port: PortChoice::OrNextFree }) => {
                Some(AdminServer::bind_default(addr, registry.clone(), readiness.clone()).await?)
            }
            None => None,
        };
        Ok(Self {
            endpoint,
            admin,
            readiness,
            registry,
            metrics,
            discovery_metrics,
            tasks: TaskTracker::new(),
            connections: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Serves what peers dial.
    pub(super) fn accept(&self, inbound: Inbound) {
        let accept = Arc::new(inbound).accept(self.endpoint.clone(), self.stop.clone());
        self.tasks.spawn(accept);
        self.readiness.set(ReadyState::Ready);
    }

    pub(super) fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::local_addr)
    }

    /// Where others reach this process.
    pub(super) fn advertised(&self, advertise: Option<SocketAddr>) -> SocketAddr {
        let bound = self.endpoint.local_addr();
        let addr = advertise.unwrap_or(bound);
        let port = if addr.port() == 0 { bound.port() } else { addr.port() };
        let ip = match addr.ip() {
            // "Any address" is none that can be dialled; without a better word others on this machine find us.
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, port)
    }

    /// Ends everything that is left and waits for it, a bounded time.
    pub(super) async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.connections.close();
        self.endpoint.shutdown().await;
        let all = async { tokio::join!(self.tasks.wait(), self.connections.wait()) };
        if tokio::time::timeout(LEFTOVERS, all).await.is_err() {
            tracing::error!("tasks are left over at the end");
        }
        if let Some(admin) = self.admin
            && let Err(error) = admin.shutdown().await
        {
            tracing::warn!(%error, "admin endpoint ended badly");
        }
    }
}

fn bind_endpoint(mut config: EndpointConfig, port: PortChoice) -> Result<Endpoint, BindError> {
    let asked = config.listen;
    let mut result = Endpoint::bind(config.clone());
    if port == PortChoice::Exactly || asked.port() == 0 {
        return result;
    }
    for step in 1..PORTS_TRIED {
        let busy = matches!(&result, Err(error) if error.is_busy());
        let Some(next) = asked.port().checked_add(step).filter(|_| busy) else { break };
        let listen = SocketAddr::new(asked.ip(), next);
        config.listen = listen;
        result = Endpoint::bind(config.clone());
        if result.is_ok() {
            tracing::info!(
                busy = asked.port(),
                listen = next,
                "default port is busy, taking the next free one"
            );
        }
    }
    result
}

/// As many as the admin endpoint tries: sixteen nodes on one machine are a demo or a test.
const PORTS_TRIED: u16 = 16;
/// Nothing waits for the network any more: what takes longer is a mistake.
const LEFTOVERS: Duration = Duration::from_secs(1);
