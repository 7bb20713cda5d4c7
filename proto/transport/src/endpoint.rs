//! A node's one UDP port: dials, accepts, shuts down. Owns the socket and every task of the transport.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use proto::{NodeId, NodeKey, handshake::ConnectionClass, status::CloseCode};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    Tuning,
    acceptor::{Acceptor, identify},
    admission::Gate,
    connection::{Connection, Origin},
    error::{ConnectError, quic_code},
    identity::{Alpn, Identity},
    metrics::{Direction, HandshakeFailure, TransportMetrics},
    socket::{self, BindError},
};

/// What an endpoint is made of.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// The node's identity.
    pub key: NodeKey,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The numbers.
    pub tuning: Tuning,
    /// Whether others may dial us. A router need not be dialled.
    pub accept: bool,
    /// Where to count.
    pub metrics: TransportMetrics,
    alpn: Alpn,
    #[cfg(feature = "testing")]
    faults: Option<crate::testing::Faults>,
}

impl EndpointConfig {
    /// Default numbers, accepting, uncounted.
    pub fn new(key: NodeKey, listen: SocketAddr) -> Self {
        Self {
            key,
            listen,
            tuning: Tuning::default(),
            accept: true,
            metrics: TransportMetrics::default(),
            alpn: ConnectionClass::alpn,
            #[cfg(feature = "testing")]
            faults: None,
        }
    }

    /// Sends and receives through a faulty network, which is not taken for this machine's.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_faults(mut self, faults: &crate::testing::Faults) -> Self {
        self.faults = Some(faults.clone());
        self.tuning.max_ack_delay_on_this_machine = self.tuning.max_ack_delay;
        self
    }

    /// Speaks a protocol version that never existed.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_foreign_version(mut self) -> Self {
        self.alpn = |class| match class {
            ConnectionClass::Interactive => b"layerlane/0/interactive",
            ConnectionClass::Bulk => b"layerlane/0/bulk",
            ConnectionClass::Discovery => b"layerlane/0/discovery",
        };
        self
    }
}

/// Whom to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The only acceptable peer; `None` trusts whoever answers first, and learns its id.
    pub node: Option<NodeId>,
    /// Where.
    pub addr: SocketAddr,
}

impl Target {
    /// Exactly this node.
    pub fn node(node: NodeId, addr: SocketAddr) -> Self {
        Self { node: Some(node), addr }
    }

    /// Whoever is there: for loopback and explicit `--trust-first` only.
    pub fn trust_first(addr: SocketAddr) -> Self {
        Self { node: None, addr }
    }
}

/// A bound endpoint. Clones are handles to the same one. Dropping the last handle stops accepting and leaves
/// open connections alone; [`shutdown`](Self::shutdown) ends everything and waits.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    identity: Identity,
    local_addr: SocketAddr,
    tuning: Tuning,
    metrics: TransportMetrics,
    /// `None` after shutdown, so that the socket can close while handles still exist.
    quinn: Mutex<Option<quinn::Endpoint>>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl Endpoint {
    /// Binds the socket and, if asked to, starts accepting. Must be called inside a tokio runtime.
    pub fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        let tls = |error: rustls::Error| BindError::Tls(error.to_string());
        let listen = config.listen;
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let identity = Identity::new(&config.key, config.alpn);
        let servers = if config.accept {
            let crypto = identity.server().map_err(tls)?;
            let near = server_config(crypto.clone(), &config.tuning, true);
            Some((server_config(crypto, &config.tuning, false), Arc::new(near)))
        } else {
            None
        };
        let (server, near) = servers.unzip();
        let runtime = Arc::new(TrackedRuntime(tasks.clone()));
        let udp = socket::bind(listen, config.tuning.socket_buffer_bytes)?;
        let io = |error| BindError::from_io(listen, error);
        let udp = runtime.wrap_udp_socket(udp).map_err(io)?;
        #[cfg(feature = "testing")]
        let udp = match &config.faults {
            Some(faults) => faults.wrap(udp, &tasks, &stop),
            None => udp,
        };
        let quinn =
            quinn::Endpoint::new_with_abstract_socket(quinn::EndpointConfig::default(), server, udp, runtime)
                .map_err(io)?;
        let local_addr = quinn.local_addr().map_err(io)?;
        // Accepted connections wait here for `accept`; Tuning says why so many.
        let (queue, accepted) = mpsc::channel(config.tuning.accept_queue.max(1));
        if let Some(near) = near {
            let acceptor = Acceptor {
                quinn: quinn.clone(),
                tuning: config.tuning.clone(),
                metrics: config.metrics.clone(),
                tasks: tasks.clone(),
                stop: stop.clone(),
                gate: Gate::new(&config.tuning),
                near,
                queue,
            };
            tasks.spawn(acceptor.run());
        }
        Ok(Self {
            inner: Arc::new(Inner {
                identity,
                local_addr,
                tuning: config.tuning,
                metrics: config.metrics,
                quinn: Mutex::new(Some(quinn)),
                accepted: tokio::sync::Mutex::new(accepted),
                tasks,
                _stop_on_drop: stop.clone().drop_guard(),
                stop,
            }),
        })
    }

    /// The address that was bound, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Our own id.
    pub fn node_id(&self) -> NodeId {
        self.inner.identity.id()
    }

    /// The numbers in use.
    pub fn tuning(&self) -> &Tuning {
        &self.inner.tuning
    }

    /// Dials and authenticates. Takes at most the class's `connect_timeout`.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped, the handshake is abandoned.
    pub async fn connect(&self, target: Target, class: ConnectionClass) -> Result<Connection, ConnectError> {
        let dialled = self.dial(target, class).await;
        if let Err(error) = &dialled {
            self.inner.metrics.handshake_failed(Direction::Dialled, failure(error));
        }
        dialled
    }

    /// The next peer that dialled us and proved its key; `None` after [`shutdown`](Self::shutdown), and at once
    /// on an endpoint that does not accept.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn accept(&self) -> Option<Connection> {
        let next = async { self.inner.accepted.lock().await.recv().await };
        tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => None,
            next = next => next,
        }
    }

    /// Closes every connection, tells the peers and waits for all tasks: at most `Tuning::shutdown_timeout`.
    /// Further calls wait for the same end. The port is free when the last (dead) [`Connection`] and stream
    /// is dropped, too.
    ///
    /// # Cancel safety
    /// Cancel-safe: the closing has begun and goes on, only the waiting ends.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        let quinn = self.inner.quinn.lock().unwrap_or_else(PoisonError::into_inner).take();
        let end = async {
            if let Some(quinn) = quinn {
                quinn.close(quic_code(CloseCode::ShuttingDown), b"shutting down");
                quinn.wait_idle().await;
            }
            self.inner.tasks.wait().await;
        };
        if tokio::time::timeout(self.inner.tuning.shutdown_timeout, end).await.is_err() {
            tracing::debug!("shutdown did not wait for every peer");
        }
    }

    /// Runs a task that ends with this endpoint's `shutdown`.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.tasks.spawn(task);
    }

    async fn dial(&self, target: Target, class: ConnectionClass) -> Result<Connection, ConnectError> {
        let Target { node: expected, addr } = target;
        let broken = |detail: String| ConnectError::Handshake { addr, detail };
        let started = Instant::now();
        let tuning = &self.inner.tuning;
        let crypto =
            self.inner.identity.client(expected, class).map_err(|error| broken(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(crypto.config);
        config.transport_config(tuning.dialler(class, addr.ip()));
        let dial = {
            let quinn = self.inner.quinn.lock().unwrap_or_else(PoisonError::into_inner);
            let quinn = quinn.as_ref().ok_or(ConnectError::Stopped)?;
            quinn.connect_with(config, addr, &crypto.server_name).map_err(|error| match error {
                quinn::ConnectError::EndpointStopping => ConnectError::Stopped,
                quinn::ConnectError::InvalidRemoteAddress(_) => ConnectError::BadAddress { addr },
                other => broken(other.to_string()),
            })?
        };
        let budget = tuning.class(class).connect_timeout;
        let quinn = tokio::time::timeout(budget, dial)
            .await
            .map_err(|_| ConnectError::TimedOut { addr, waited: budget })?
            .map_err(|error| {
                ConnectError::from_quinn(
                    addr,
                    error,
                    expected,
                    crypto.found.get().copied(),
                    started.elapsed(),
                )
            })?;
        let (peer, agreed) = identify(&quinn).ok_or_else(|| broken("the peer showed no key".into()))?;
        if agreed != class {
            return Err(ConnectError::VersionMismatch { addr });
        }
        // The verifier has held the key against the expected id; this is the second lock on the door.
        if let Some(expected) = expected
            && expected != peer
        {
            return Err(ConnectError::WrongNode { addr, expected, found: peer });
        }
        let origin = Origin {
            peer,
            class,
            direction: Direction::Dialled,
            metrics: self.inner.metrics.clone(),
            frame_budget: self.inner.tuning.class(class).frame_budget as usize,
        };
        let (connection, watch) = Connection::start(quinn, origin);
        self.spawn(watch.run());
        Ok(connection)
    }
}

fn server_config(
    crypto: Arc<quinn::crypto::rustls::QuicServerConfig>,
    tuning: &Tuning,
    from_this_machine: bool,
) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(crypto);
    config.transport_config(tuning.acceptor(from_this_machine));
    // First packets that the accept loop has not looked at yet; it never waits, so few, and a burst beyond
    // is refused. quinn's default of 65,536 with 10 MiB each is for servers that let them lie.
    config.max_incoming(tuning.max_half_open);
    // A ClientHello fits in one packet; a second one may come before the loop has looked.
    config.incoming_buffer_size(4 << 10);
    config.incoming_buffer_size_total(1 << 20);
    // Tokens for later dials would only save the retry round trip, which exists under load only.
    config.validation_token.sent(0);
    config
}

fn failure(error: &ConnectError) -> HandshakeFailure {
    match error {
        ConnectError::WrongNode { .. } => HandshakeFailure::WrongNode,
        ConnectError::VersionMismatch { .. } => HandshakeFailure::Version,
        ConnectError::TimedOut { .. } => HandshakeFailure::TimedOut,
        ConnectError::Refused { .. } => HandshakeFailure::Refused,
        ConnectError::Handshake { .. }
        | ConnectError::BadAddress { .. }
        | ConnectError::NoAddress { .. }
        | ConnectError::TooManyDials
        | ConnectError::Stopped => HandshakeFailure::Other,
    }
}

/// tokio, with quinn's own tasks on our tracker, so that `shutdown` waits for them too.
#[derive(Debug)]
struct TrackedRuntime(TaskTracker);

impl Runtime for TrackedRuntime {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}
