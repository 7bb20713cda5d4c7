//! `router serve`: many clients over HTTP, several models, one router.
//!
//! ```text
//!  listener --> routes --> body, request (pure) --> desk --> gate (admission: pure) --> driver --> answer (events: pure)
//! ```
//! Owns the server's life: [`Server::bind`], [`Server::join`], [`Server::shutdown`]. A client that goes away, or closes
//! its side of the connection, drops its answer, which closes the session on every node.

mod answer;
mod bill;
mod body;
mod catalogue;
mod config;
mod desk;
mod encoders;
mod events;
mod gate;
mod hangup;
mod heads;
mod listener;
mod openai;
mod origins;
mod problem;
mod ready;
mod request;
mod routes;
mod shelf;
mod turns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn;
use proto_telemetry::{AdminServer, BindAdminError, Readiness, ReadyState, Registry};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::keys::{KeyFileError, Keyring};
use crate::router::Router;
use catalogue::Catalogue;
use desk::Desk;
use listener::Listener;

pub use config::{ADMIN_PORT, API_PORT, HttpLimits, Listen, MAX_MODELS, ServeConfig};
pub use listener::ListenError;
pub use origins::{Origin, OriginError};
pub use problem::Problem;
pub use request::Asked;

/// A serving router.
#[derive(Debug)]
pub struct Server {
    desk: Arc<Desk>,
    listener: Listener,
    admin: AdminServer,
    readiness: Readiness,
    refreshing: TaskTracker,
    stop_refreshing: CancellationToken,
    drain: Duration,
}

/// The line that says that a router serves.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServerReady {
    event: &'static str,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The admin endpoint.
    pub admin: SocketAddr,
    /// Models found so far, as clients call them.
    pub models: Vec<String>,
}

/// A server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The API's address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The admin endpoint's address.
    #[error(transparent)]
    Admin(#[from] BindAdminError),
    /// The system gives no random numbers.
    #[error("draw a salt: {0}")]
    Random(String),
    /// The keys can't be read.
    #[error("read the API keys: {0}")]
    Keys(#[from] KeyFileError),
}

impl Server {
    /// Opens both ports, looks the swarm up and fetches what is found; serves when it returns.
    pub async fn bind(config: ServeConfig, router: Router, registry: Registry) -> Result<Self, BindError> {
        let readiness = Readiness::starting("looking for models");
        let admin = match config.admin {
            Listen::Exactly(addr) => AdminServer::bind(addr, registry, readiness.clone()).await?,
            Listen::OrNextFree(addr) => AdminServer::bind_default(addr, registry, readiness.clone()).await?,
        };
        let keys = match &config.keys {
            // Where others connect, and may because there were keys, a file that vanishes must not let everybody in.
            Some(file) => {
                let kept = config.keys_required || file.exists() && !config.listen.addr().ip().is_loopback();
                Keyring::open(file.clone(), kept)?
            }
            None => Keyring::none(),
        };
        let catalogue = Catalogue::new(router.clone(), config.models.clone(), config.admission);
        let (http, drain, every) = (config.http, config.drain, config.measure_every);
        let (listen, origins) = (config.listen, config.origins.clone());
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| BindError::Random(error.to_string()))?;
        let desk = Arc::new(Desk::new(router, catalogue.clone(), config, salt));
        let app = routes::routes(Arc::clone(&desk), body::BodyReader::new(http), keys.clone());
        let app = origins::guarded(app, &origins).layer(from_fn(heads::identified));
        catalogue.begin().await;
        let listener = Listener::bind(listen, app, http).await?;
        let (refreshing, stop_refreshing) = (TaskTracker::new(), CancellationToken::new());
        refreshing.spawn(catalogue.run(every, stop_refreshing.clone()));
        refreshing.spawn(keys.clone().write_now_and_then(stop_refreshing.clone()));
        readiness.set(ReadyState::Ready);
        Ok(Self { desk, listener, admin, readiness, refreshing, stop_refreshing, drain })
    }

    /// Where it serves, and what.
    pub fn ready(&self) -> ServerReady {
        let models = self.desk.catalogue().list();
        ServerReady {
            event: "ready",
            listen: self.listener.addr(),
            admin: self.admin.local_addr(),
            models: models.iter().map(|served| self.desk.catalogue().id_of(served)).collect(),
        }
    }

    /// Waits for a fault that ends the server.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn join(&mut self) -> std::io::Result<()> {
        self.admin.join().await
    }

    /// Takes nothing new (503), refuses what waits, lets open answers finish within the bound, and closes. The
    /// [`Router`] stays its owner's to shut down. Dropping the future ends the drain.
    pub async fn shutdown(self) {
        self.readiness.set(ReadyState::Draining);
        self.desk.drain();
        if tokio::time::timeout(self.drain, self.desk.finished()).await.is_err() {
            tracing::warn!(open = self.desk.router().driver().open_sessions(), "answers are cut off");
        }
        self.stop_now().await;
    }

    /// Closes at once.
    pub async fn stop_now(self) {
        self.desk.drain();
        self.listener.shutdown(LAST_BYTES).await;
        // Only now, as what keys have used is written a last time then, and answers that were cut off count too.
        self.stop_refreshing.cancel();
        self.refreshing.close();
        self.refreshing.wait().await;
        if let Err(error) = self.admin.shutdown().await {
            tracing::debug!(%error, "close the admin endpoint");
        }
    }
}

/// Answers that are complete are on their way to their clients.
const LAST_BYTES: Duration = Duration::from_millis(500);
