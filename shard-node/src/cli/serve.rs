//! `serve` and `bootstrap`: from checked settings to a running node, its ready line, and a bounded end.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kademlia_dht::bootstrap::Bootstrap;
use proto_keys::KeyRing;
use proto_transport::{EndpointConfig, Target};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::source::{self, Source};
use super::{model, print_line};
use crate::clock::unix_seconds;
use crate::discovery::Discovery;
use crate::engine::{Engine, LoadRequest};
use crate::identity::Identity;
use crate::node::{AdminConfig, BootstrapConfig, BootstrapNode, Node, NodeConfig, PortChoice, ServedModel};
use crate::settings::Checked;

/// Said when there is nothing to serve.
pub(super) const NO_MODEL: &str = "no model was named: give --model REF, for example --model smollm2-135m-instruct, or `model` in the configuration";

/// Serves until SIGTERM or SIGINT, or until the node fails.
pub(super) fn serve(engine: &dyn Engine, checked: &Checked) -> Result<()> {
    let reference = checked.model.clone().context(NO_MODEL)?;
    let name = model::announced_name(&reference, checked.name.as_deref())?;
    let identity = Identity::open(&checked.state_dir)?;
    let runtime = runtime()?;
    let bootstrap = runtime.block_on(targets(&checked.bootstrap, checked.trust_first))?;
    let Source { path, span, described } = match checked.model_id {
        Some(id) => source::by_id(&runtime, &reference, checked.layers, id, (&identity, &bootstrap))?,
        None => source::from_files(&runtime, &reference, checked.layers)?,
    };
    tracing::info!(model = name, id = %described.id, layers = %span, class = %checked.class, "loading");
    let served = ServedModel {
        name,
        manifest: Bytes::from(described.manifest.to_bytes()),
        tokenizer: described.tokenizer_json.map(Bytes::from),
    };
    let loader = engine.loader(LoadRequest {
        checkpoint: path,
        manifest: Arc::new(described.manifest),
        span,
        class: checked.class,
        device: checked.device,
        threads: checked.threads,
    });
    let (listen, port) = listen(checked);
    let mut config = NodeConfig::new(identity.key().clone(), listen, served);
    config.keys = Some(Arc::new(KeyRing::open(identity.folder(), identity.key(), unix_seconds())?));
    config.port = port;
    config.admin = Some(admin(checked));
    config.kv_positions = checked.kv_positions;
    config.limits.prefix_positions = checked.prefix_positions;
    config.limits.boundary_bytes = checked.boundary_bytes;
    config.drain = checked.drain;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        config.advertise = checked.advertise.or_else(|| guess_advertised(listen, &bootstrap));
        let discovery = Discovery::Dht { bootstrap, state_dir: Some(identity.folder().to_owned()) };
        let node = tokio::select! {
            bound = Node::bind(config, discovery, loader) => bound?,
            () = signals.next() => bail!("asked to stop while loading"),
        };
        print_line(&node.ready().to_line());
        let fault = tokio::select! {
            fault = node.join() => Some(fault),
            () = signals.next() => None,
        };
        tracing::info!("draining: open sessions may finish, a second signal ends them");
        tokio::select! {
            () = node.shutdown() => {}
            () = signals.next() => tracing::warn!("ended without draining"),
        }
        fault.map_or(Ok(()), |fault| Err(fault.into()))
    })
}

/// Runs a DHT peer until SIGTERM or SIGINT.
pub(super) fn bootstrap(checked: &Checked) -> Result<()> {
    let identity = Identity::open(&checked.state_dir)?;
    let (listen, port) = listen(checked);
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let bootstrap = targets(&checked.bootstrap, checked.trust_first).await?;
        let node = BootstrapNode::bind(BootstrapConfig {
            endpoint: EndpointConfig::new(identity.key().clone(), listen),
            port,
            advertise: checked.advertise.or_else(|| guess_advertised(listen, &bootstrap)),
            admin: Some(admin(checked)),
            bootstrap,
            state_dir: Some(identity.folder().to_owned()),
        })
        .await?;
        print_line(&node.ready().to_line());
        signals.next().await;
        node.shutdown().await;
        Ok(())
    })
}

/// One thread moves bytes and time; computing has a thread of its own. On loopback an 8 KiB echo takes 77 us with one
/// thread and 144 to 223 us with a multi-threaded runtime, which hands work between threads
/// (`cargo run --release -p proto-transport --example loopback`).
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
}

fn listen(checked: &Checked) -> (SocketAddr, PortChoice) {
    checked.listen.map_or((DEFAULT_LISTEN, PortChoice::OrNextFree), |addr| (addr, PortChoice::Exactly))
}

/// Where others probably reach a node that listens everywhere: the address that packets to the first bootstrap peer
/// leave from, or to anywhere without one. Nothing is sent. The port is the one that will be bound.
fn guess_advertised(listen: SocketAddr, bootstrap: &[Target]) -> Option<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return None;
    }
    let towards = bootstrap.first().map_or(ANYWHERE, |target| target.addr);
    let socket = std::net::UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).ok()?;
    socket.connect(towards).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    tracing::info!(%ip, "listening on every address, announcing this one; --advertise ADDR announces another");
    Some(SocketAddr::new(ip, BOUND_PORT))
}

fn admin(checked: &Checked) -> AdminConfig {
    let (addr, port) =
        checked.admin.map_or((DEFAULT_ADMIN, PortChoice::OrNextFree), |addr| (addr, PortChoice::Exactly));
    AdminConfig { addr, port }
}

pub(super) async fn targets(bootstrap: &[Bootstrap], trust_first: bool) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for peer in bootstrap {
        targets.push(peer.resolve(trust_first).await?);
    }
    Ok(targets)
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    /// Cancel-safe: a signal that is not taken stays pending.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7401);
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7402);

/// An address outside this machine that nobody has (RFC 5737); it only selects a route.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Stands for the port that will be bound.
const BOUND_PORT: u16 = 0;
