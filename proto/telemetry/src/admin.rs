//! The admin endpoint: `/metrics`, `/livez` and `/readyz` over HTTP/1, on loopback unless told otherwise.
//!
//! Owns the server's life: [`AdminServer::bind`], [`AdminServer::join`], [`AdminServer::shutdown`]. It serves
//! reads only; nothing here changes the process. Who may connect is the operator's choice of address.

mod listener;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Readiness, ReadyState, Registry};
use listener::BoundedListener;

/// A running admin endpoint. Dropping it ends it too, without waiting.
#[derive(Debug)]
pub struct AdminServer {
    local_addr: SocketAddr,
    /// Asks for the end: no new connections, answers under way are finished.
    stop: CancellationToken,
    /// Cuts what is still open.
    cut: CancellationToken,
    connections: TaskTracker,
    serving: JoinHandle<io::Result<()>>,
}

/// The admin endpoint could not be opened.
#[derive(Debug, Error)]
pub enum BindAdminError {
    /// Another program has the port.
    #[error(
        "admin address {addr} is in use by another program; stop that one, or choose another with --admin ADDR \
         (port 0 takes a free one)"
    )]
    Busy {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The address cannot be opened for another reason.
    #[error("open admin address {addr}: {source}; choose another with --admin ADDR")]
    Unusable {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl AdminServer {
    /// Opens exactly `addr` (port 0 takes a free one) and serves from then on.
    pub async fn bind(
        addr: SocketAddr,
        registry: Registry,
        readiness: Readiness,
    ) -> Result<Self, BindAdminError> {
        let unusable = |source| BindAdminError::Unusable { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindAdminError::Busy { addr },
            _ => unusable(source),
        })?;
        let local_addr = listener.local_addr().map_err(unusable)?;

        let (stop, cut, connections) =
            (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let listener = BoundedListener::new(listener, cut.clone(), connections.clone());
        let service = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz))
            .with_state(Served { registry, readiness });
        let stopped = stop.clone().cancelled_owned();
        let serving = connections
            .spawn(async move { axum::serve(listener, service).with_graceful_shutdown(stopped).await });
        Ok(Self { local_addr, stop, cut, connections, serving })
    }

    /// Opens `addr`, or if its port is taken the first free one of the fifteen that follow.
    ///
    /// For addresses nobody asked for by name; an explicit one goes to [`AdminServer::bind`] and fails hard.
    pub async fn bind_default(
        addr: SocketAddr,
        registry: Registry,
        readiness: Readiness,
    ) -> Result<Self, BindAdminError> {
        let mut busy = BindAdminError::Busy { addr };
        for step in 0..PORTS_TRIED {
            let Some(port) = addr.port().checked_add(step) else { break };
            let candidate = SocketAddr::new(addr.ip(), port);
            match Self::bind(candidate, registry.clone(), readiness.clone()).await {
                Err(error @ BindAdminError::Busy { .. }) if step == 0 => busy = error,
                Err(BindAdminError::Busy { .. }) => {}
                other => return other,
            }
        }
        Err(busy)
    }

    /// Where it listens, with the port the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits until the server has ended by itself, which it does only on a fault of the listener.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the server running; it may be awaited again until it has returned once.
    pub async fn join(&mut self) -> io::Result<()> {
        flatten((&mut self.serving).await)
    }

    /// Stops accepting, lets answers under way finish for half a second, cuts the rest, and waits for it.
    pub async fn shutdown(mut self) -> io::Result<()> {
        self.stop.cancel();
        self.connections.close();
        if tokio::time::timeout(FINISH_ANSWERS, self.connections.wait()).await.is_err() {
            self.cut.cancel();
            self.connections.wait().await;
        }
        flatten((&mut self.serving).await)
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

#[derive(Clone, Debug)]
struct Served {
    registry: Registry,
    readiness: Readiness,
}

async fn metrics(State(served): State<Served>) -> Response {
    match served.registry.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("encode metrics: {error}\n")).into_response()
        }
    }
}

async fn readyz(State(served): State<Served>) -> Response {
    match served.readiness.get() {
        ReadyState::Ready => (StatusCode::OK, "ready\n".to_owned()),
        ReadyState::Starting(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("starting: {why}\n")),
        ReadyState::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
    }
    .into_response()
}

fn flatten(ended: Result<io::Result<()>, tokio::task::JoinError>) -> io::Result<()> {
    ended.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The version of the text format that [`Registry::encode`] writes.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Sixteen processes of one kind on a machine are a demo or a test; more should name their ports.
const PORTS_TRIED: u16 = 16;

/// A scrape on loopback takes a few milliseconds; whoever needs longer than this is not reading.
const FINISH_ANSWERS: Duration = Duration::from_millis(500);
