//! The links to all nodes, dialled when first wanted and replaced when lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use proto::NodeId;
use proto_transport::{ConnectError, ConnectionClass, Endpoint, Peers};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::Link;

/// Nodes that a router talks to at once: the view's 256 of a model, and room for what is being let go.
const MAX_LINKS: usize = 512;

/// Shared links. Clones are handles to the same table.
#[derive(Clone, Debug)]
pub(super) struct Links {
    peers: Peers,
    table: Arc<Mutex<HashMap<NodeId, Arc<Link>>>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Links {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            peers: Peers::new(endpoint, MAX_LINKS),
            table: Arc::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        }
    }

    /// The open link to `node`, or a new one.
    ///
    /// # Cancel safety
    /// Cancel-safe: a dial goes on for others.
    pub(super) async fn get(&self, node: NodeId, addrs: &[SocketAddr]) -> Result<Arc<Link>, ConnectError> {
        let connection = self.peers.connection(node, addrs, ConnectionClass::Interactive).await?;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = table.get(&node).filter(|link| link.is_open()) {
            return Ok(Arc::clone(link));
        }
        if self.cancel.is_cancelled() {
            return Err(ConnectError::Stopped);
        }
        table.retain(|_, link| link.is_open());
        let (link, queue) = Link::new(connection);
        table.insert(node, Arc::clone(&link));
        self.tasks.spawn(Arc::clone(&link).run(queue, self.cancel.clone()));
        Ok(link)
    }

    /// Closes every link and waits for their tasks.
    pub(super) async fn shutdown(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
