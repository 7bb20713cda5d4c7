//! The async shell around [`crate::session`]: shared connections to nodes, one small task per session. Moves bytes and
//! time; decides nothing.

mod client;
mod link;
mod links;
mod losses;
mod shell;

use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::status::{NodeStatus, StatusRequest};
use proto_transport::{Endpoint, RequestError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::RouterMetrics;
use crate::session::SessionTerms;

pub use client::{Session, SessionEnd, TimedToken};

/// Drives any number of sessions over shared connections. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Driver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    links: links::Links,
    metrics: RouterMetrics,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Why a session was not even begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// As many sessions as this router drives at once are open.
    #[error("this router already drives {MAX_SESSIONS} sessions: try again later")]
    Busy,
    /// This driver was shut down.
    #[error("the router is shutting down")]
    ShuttingDown,
}

/// A node's answer to a status request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Its load.
    pub status: NodeStatus,
    /// Round-trip time of the connection.
    pub rtt: Duration,
}

/// Sessions at once: each costs two tasks' stacks and its queues, some 50 kB, so some 50 MB.
pub const MAX_SESSIONS: usize = 1024;

impl Driver {
    /// A driver that dials from `endpoint`, which stays the caller's to shut down.
    pub fn new(endpoint: Endpoint, metrics: RouterMetrics) -> Self {
        let links = links::Links::new(endpoint);
        let slots = Arc::new(Semaphore::new(MAX_SESSIONS));
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        Self { inner: Arc::new(Inner { links, metrics, slots, tasks, cancel }) }
    }

    /// Begins a session: dials, opens, sends the prompt. Returns at once; tokens and the end come from the handle.
    ///
    /// # Errors
    /// [`StartError`] if this router can't take it; everything about nodes comes as the session's end.
    pub fn start(&self, terms: impl Into<Arc<SessionTerms>>) -> Result<Session, StartError> {
        self.start_holding(terms, ())
    }

    /// As [`Driver::start`]; `held` is dropped when all stages have let the session go, or have had their time to.
    ///
    /// # Errors
    /// As [`Driver::start`].
    pub fn start_holding(
        &self,
        terms: impl Into<Arc<SessionTerms>>,
        held: impl Send + 'static,
    ) -> Result<Session, StartError> {
        let slot = Arc::clone(&self.inner.slots).try_acquire_owned().map_err(|_| StartError::Busy)?;
        self.begin(terms.into(), (slot, held))
    }

    /// As [`Driver::start_holding`], for the next generation of a session that was started before: it takes no further
    /// place among those that are driven at once, as the one before is over or about to be.
    ///
    /// # Errors
    /// [`StartError::ShuttingDown`].
    pub(crate) fn start_next(
        &self,
        terms: Arc<SessionTerms>,
        held: impl Send + 'static,
    ) -> Result<Session, StartError> {
        self.begin(terms, held)
    }

    fn begin(&self, terms: Arc<SessionTerms>, held: impl Send + 'static) -> Result<Session, StartError> {
        if self.inner.cancel.is_cancelled() {
            return Err(StartError::ShuttingDown);
        }
        let (session, client) = client::pair(&terms);
        let shell = shell::Shell::new(terms, self.inner.links.clone(), client, self.inner.metrics.clone());
        let cancel = self.inner.cancel.clone();
        self.inner.metrics.session_started();
        self.inner.tasks.spawn(async move {
            shell.run(cancel).await;
            drop(held);
        });
        Ok(session)
    }

    /// Asks a node for its load.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn probe(
        &self,
        node: NodeId,
        addrs: &[std::net::SocketAddr],
        timeout: Duration,
    ) -> Result<Probed, RequestError> {
        let asked = async {
            let link = self.inner.links.get(node, addrs).await?;
            let status = link.connection().request_message(&StatusRequest, timeout).await?;
            Ok(Probed { status, rtt: link.connection().rtt() })
        };
        let kind = proto::FrameKind::StatusRequest;
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or(Err(RequestError::TimedOut { kind, waited: timeout }))
    }

    /// Sessions open at present.
    pub fn open_sessions(&self) -> usize {
        MAX_SESSIONS - self.inner.slots.available_permits()
    }

    /// Cancels every session, waits for their ends (at most a few hundred milliseconds each) and for all tasks.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        // Only now, as the sessions' last frames go over the links.
        self.inner.links.shutdown().await;
    }
}
