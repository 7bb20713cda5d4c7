//! A peer of the DHT without a stage, for others to begin with.

use proto_telemetry::{BuildLabels, ReadyState, register_build};

use super::config::BootstrapConfig;
use super::ready::Ready;
use super::shell::{Shell, ShellError};
use crate::discovery::{DhtService, Discovery};
use crate::inbound::Inbound;

/// A running peer of the DHT. It announces nothing: whoever dials it learns its id.
#[derive(Debug)]
pub struct BootstrapNode {
    shell: Shell,
    dht: DhtService,
    ready: Ready,
}

impl BootstrapNode {
    /// Binds and serves.
    pub async fn bind(config: BootstrapConfig) -> Result<Self, ShellError> {
        let BootstrapConfig { endpoint, port, advertise, admin, bootstrap, state_dir } = config;
        let node = endpoint.key.node_id();
        let shell = Shell::bind(endpoint, port, admin, "binding".into()).await?;
        let labels = BuildLabels {
            program: "shard-node",
            version: env!("CARGO_PKG_VERSION"),
            protocol: super::PROTOCOL,
        };
        register_build(&shell.registry, labels)?;
        let advertised = shell.advertised(advertise).port();
        let discovery = Discovery::Dht { bootstrap, state_dir };
        let (dht, _) =
            discovery.start(&shell.endpoint, Some(advertised), shell.discovery_metrics.clone()).await;
        shell.accept(Inbound {
            dht: dht.clone(),
            serving: None,
            metrics: shell.metrics.clone(),
            tasks: shell.connections.clone(),
            most_connections: super::NodeLimits::default().connections,
        });
        let ready = Ready::new(node, shell.endpoint.local_addr(), shell.admin_addr());
        Ok(Self { shell, dht, ready })
    }

    /// Who and where it is.
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Ends and waits, a bounded time.
    pub async fn shutdown(self) {
        self.shell.readiness.set(ReadyState::Draining);
        self.dht.shutdown().await;
        self.shell.shutdown().await;
    }
}
