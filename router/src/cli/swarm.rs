//! From settings to a router that has joined the swarm.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kademlia_dht::{Dht, DhtConfig, DiscoveryMetrics};
use proto_telemetry::{BuildLabels, Registry, register_build, register_process};
use proto_transport::{Endpoint, EndpointConfig, Target, TransportMetrics};
use router::Router;
use router::discovery::BlobCache;
use router::metrics::RouterMetrics;

use super::identity;
use super::settings::{Settings, UsageError, default_file};

/// How long the bootstrap peers have to answer: a dial takes up to 2 s, and one retry.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

/// A router and the DHT client it looks up through.
pub(super) struct Swarm {
    pub(super) router: Router,
    dht: Dht,
}

impl Swarm {
    pub(super) async fn shutdown(&self) {
        self.dht.shutdown().await;
        self.router.shutdown().await;
    }
}

/// Fails if no bootstrap peer is set.
pub(super) fn need_bootstrap(settings: &Settings) -> Result<(), UsageError> {
    if settings.bootstrap.is_empty() {
        let file = settings.file.clone().or_else(default_file).unwrap_or_else(|| "router.toml".into());
        return Err(UsageError::NoBootstrap(file));
    }
    Ok(())
}

/// Binds a port, joins as a client (nobody can dial a router), and waits for the first peer.
pub(super) async fn join(settings: &Settings, registry: &Registry) -> anyhow::Result<Swarm> {
    need_bootstrap(settings)?;
    let key = identity::key(settings.state_dir.as_deref()).context("open this router's identity")?;
    let keys = settings.attest.then(|| identity::ring(settings.state_dir.as_deref(), &key)).transpose();
    let keys = keys.context("open the keys that this router signs with (--attest=false does without)")?;
    let targets = resolve(settings).await?;
    let mut endpoint = EndpointConfig::new(key, listen(&targets));
    endpoint.accept = false;
    // A one-shot program serves no metrics; `serve` does.
    endpoint.metrics = TransportMetrics::new(registry.as_prometheus())?;
    register_process(registry)?;
    let version = env!("CARGO_PKG_VERSION");
    register_build(registry, BuildLabels { program: "router", version, protocol: PROTOCOL })?;
    let mut dht = DhtConfig::client(targets.clone());
    dht.metrics = DiscoveryMetrics::new(registry.as_prometheus())?;
    let endpoint = Endpoint::bind(endpoint).context("open a UDP port")?;
    let dht = Dht::start(endpoint.clone(), dht).await;
    if let Err(error) = dht.joined(JOIN_PATIENCE).await {
        dht.shutdown().await;
        endpoint.shutdown().await;
        return Err(error.into());
    }
    let metrics = RouterMetrics::register(registry)?;
    let router = Router::new(endpoint, Arc::new(dht.clone()), BlobCache::at(&settings.cache_dir), metrics);
    let router = match keys {
        Some(keys) => router.with_keys(keys),
        None => router,
    };
    Ok(Swarm { router: router.with_swarm_note(&note(settings, dht.table_len())), dht })
}

async fn resolve(settings: &Settings) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    let mut last = None;
    for peer in &settings.bootstrap {
        match peer.resolve(settings.trust_first).await {
            Ok(target) => targets.push(target),
            Err(error) => last = Some(error),
        }
    }
    match last {
        // One that works is enough.
        Some(error) if targets.is_empty() => Err(error.into()),
        Some(error) => {
            tracing::warn!(%error, "a bootstrap peer is left out");
            Ok(targets)
        }
        None => Ok(targets),
    }
}

/// Any port: of both families if one of the peers needs IPv6, only of this machine if all are on it.
fn listen(targets: &[Target]) -> SocketAddr {
    let v6 = targets.iter().any(|target| target.addr.is_ipv6());
    let local = targets.iter().all(|target| target.addr.ip().is_loopback());
    let ip: IpAddr = match (v6, local) {
        (false, true) => Ipv4Addr::LOCALHOST.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
        (true, _) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

fn note(settings: &Settings, peers: usize) -> String {
    let targets: Vec<_> = settings.bootstrap.iter().map(ToString::to_string).collect();
    match targets.len() {
        1 => format!("; bootstrap peers reached: {}", targets[0]),
        _ => format!("; bootstrap peers: {} ({peers} peers reached)", targets.join(", ")),
    }
}

/// The newest protocol that this router speaks.
const PROTOCOL: &str = "1";
