//! The accepting side: one loop takes first packets, one task per handshake brings them to an authenticated
//! connection. Owns the queue towards `Endpoint::accept`; who may enter is `admission`'s.
//!
//! ```text
//! first packet --(too many)--> refused | --(load)--> retry
//!      |
//! half-open --(timeout, bad key, no common ALPN)--> dropped
//!      |
//! authenticated --(peer, address or endpoint full)--> closed: overload
//!      |
//! queued --> Endpoint::accept
//! ```

use std::sync::Arc;

use proto::{NodeId, handshake::ConnectionClass, status::CloseCode};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Tuning,
    admission::{Entry, Gate, HalfOpen},
    connection::{Connection, Origin},
    error::quic_code,
    metrics::{Direction, HandshakeFailure, TransportMetrics},
    verifier::node_id_of,
};

/// The loop and what its handshakes share.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) tuning: Tuning,
    pub(crate) metrics: TransportMetrics,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) gate: Gate,
    /// For peers on this machine; all others take the endpoint's own.
    pub(crate) near: Arc<quinn::ServerConfig>,
    /// Bounded by `Tuning::accept_queue`.
    pub(crate) queue: mpsc::Sender<Connection>,
}

impl Acceptor {
    pub(crate) async fn run(self) {
        loop {
            let incoming = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                incoming = self.quinn.accept() => match incoming {
                    Some(incoming) => incoming,
                    None => break,
                },
            };
            // Nothing here waits: a slow handshake holds up nobody but itself.
            match self.gate.enter(incoming.remote_address().ip(), incoming.remote_address_validated()) {
                Entry::Handshake(permit) => {
                    let this = self.clone();
                    self.tasks.spawn(async move { this.handshake(incoming, permit).await });
                }
                Entry::ProveAddress => {
                    self.metrics.retried();
                    // Can only fail for an address that is proven, which the gate let through.
                    let _ = incoming.retry();
                }
                Entry::Refuse => {
                    self.metrics.handshake_failed(Direction::Accepted, HandshakeFailure::Overload);
                    incoming.refuse();
                }
            }
        }
    }

    async fn handshake(self, incoming: quinn::Incoming, permit: HalfOpen) {
        let remote = incoming.remote_address();
        let handshake = async {
            let connecting = if remote.ip().is_loopback() {
                incoming.accept_with(self.near.clone())?
            } else {
                incoming.accept()?
            };
            let quinn = connecting.await?;
            Ok::<_, quinn::ConnectionError>(quinn)
        };
        let finished = tokio::select! {
            () = self.stop.cancelled() => return,
            finished = tokio::time::timeout(self.tuning.handshake_timeout, handshake) => finished,
        };
        let failure = match finished {
            Ok(Ok(quinn)) => match identify(&quinn) {
                Some((peer, class)) => return self.welcome(quinn, peer, class, permit).await,
                None => HandshakeFailure::Other,
            },
            Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => HandshakeFailure::TimedOut,
            Ok(Err(quinn::ConnectionError::TransportError(error)))
                if error.code == quinn::TransportErrorCode::crypto(120) =>
            {
                HandshakeFailure::Version
            }
            Ok(Err(_)) => HandshakeFailure::Other,
        };
        tracing::debug!(%remote, ?failure, "handshake failed");
        self.metrics.handshake_failed(Direction::Accepted, failure);
    }

    async fn welcome(self, quinn: quinn::Connection, peer: NodeId, class: ConnectionClass, permit: HalfOpen) {
        let Some(slot) = self.gate.stay(peer, quinn.remote_address().ip()) else {
            self.metrics.handshake_failed(Direction::Accepted, HandshakeFailure::Overload);
            quinn.close(quic_code(CloseCode::Overload), b"too many connections");
            return;
        };
        // The class is known now: widen the promises that had to be the smallest of all classes.
        let class_tuning = self.tuning.class(class);
        quinn.set_receive_window(class_tuning.connection_window.into());
        quinn.set_send_window(class_tuning.send_window.into());
        quinn.set_max_concurrent_uni_streams(class_tuning.uni_streams.into());
        quinn.set_max_concurrent_bi_streams(class_tuning.bi_streams.into());
        let origin = Origin {
            peer,
            class,
            direction: Direction::Accepted,
            metrics: self.metrics.clone(),
            frame_budget: class_tuning.frame_budget as usize,
        };
        let (connection, watch) = Connection::start(quinn, origin);
        self.tasks.spawn(async move {
            watch.run().await;
            drop(slot);
        });
        // While the queue is full the handshake still counts as half-open, so newcomers are refused.
        let queued = self.queue.send_timeout(connection, self.tuning.handshake_timeout).await;
        drop(permit);
        if let Err(error) = queued {
            let (mpsc::error::SendTimeoutError::Timeout(connection)
            | mpsc::error::SendTimeoutError::Closed(connection)) = error;
            self.metrics.handshake_failed(Direction::Accepted, HandshakeFailure::Overload);
            connection.close(CloseCode::Overload, "not accepted in time");
        }
    }
}

/// Whom a finished handshake was with, and for what.
pub(crate) fn identify(quinn: &quinn::Connection) -> Option<(NodeId, ConnectionClass)> {
    let identity = quinn.peer_identity()?;
    let keys = identity.downcast_ref::<Vec<rustls::pki_types::CertificateDer<'static>>>()?;
    let peer = node_id_of(keys.first()?).ok()?;
    let handshake = quinn.handshake_data()?;
    let handshake = handshake.downcast_ref::<quinn::crypto::rustls::HandshakeData>()?;
    let class = ConnectionClass::from_alpn(handshake.protocol.as_deref()?)?;
    Some((peer, class))
}
