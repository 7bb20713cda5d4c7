//! Connections to the neighbours that this stage sends to, shared by all sessions with the same neighbour.
//!
//! A [`Link`] is what we dialled: to the next stage on both session classes, or from the tail to stage 0 on the
//! interactive one. Each of its streams has one task that writes what the compute thread queues. When a connection of
//! a link is lost, the compute thread is told and fails the link's sessions; a link is never repaired.

mod report;
mod sender;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::FrameKind;
use proto::NodeId;
use proto::session::PlanStage;
use proto_transport::{ConnectError, Connection, ConnectionClass, Peers};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::compute::{Command, ComputeHandle};
use crate::session::table::LinkId;

pub(crate) use report::ReportLink;

/// A frame that waits to be written: the body in up to two pieces, so that rows are not copied to their head.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) body: [Bytes; 2],
}

impl Frame {
    pub(crate) fn of<M: proto::Message>(message: &M) -> Self {
        Self { kind: M::KIND, body: [message.encode(), Bytes::new()] }
    }
}

/// What flows by a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum LinkKind {
    /// Activations to the next stage.
    Hop,
    /// Sampled tokens from the tail to stage 0.
    TailReturn,
}

/// The neighbour that sessions send to.
#[derive(Debug)]
pub(crate) struct Link {
    id: LinkId,
    interactive: mpsc::Sender<Frame>,
    bulk: Option<mpsc::Sender<Frame>>,
    alive: CancellationToken,
    /// Ends the link's tasks once nobody holds it.
    _released: DropGuard,
}

impl Link {
    pub(crate) const fn id(&self) -> LinkId {
        self.id
    }

    /// Whether neither connection is lost.
    pub(crate) fn is_alive(&self) -> bool {
        !self.alive.is_cancelled()
    }

    /// Queues a decode frame or a token. A link that takes none is given up: its sessions fail as if it were lost.
    pub(crate) fn send(&self, frame: Frame) {
        if self.interactive.try_send(frame).is_err() {
            self.alive.cancel();
        }
    }

    /// Queues a prefill frame; ask [`Self::has_room`] first. Otherwise like [`Self::send`].
    pub(crate) fn send_bulk(&self, frame: Frame) {
        if self.bulk.as_ref().is_none_or(|bulk| bulk.try_send(frame).is_err()) {
            self.alive.cancel();
        }
    }

    /// Whether another bulk frame can be queued. A link without a bulk queue carries no prefill rows.
    pub(crate) fn has_room(&self) -> bool {
        self.bulk.as_ref().is_none_or(|bulk| bulk.capacity() > 0)
    }
}

/// The links of a node.
#[derive(Debug)]
pub(crate) struct Links {
    peers: Peers,
    compute: ComputeHandle,
    tasks: TaskTracker,
    ids: LinkIds,
    // Bounded by the sessions open: a link that no session uses goes after IDLE.
    table: Mutex<HashMap<(NodeId, LinkKind), Kept>>,
}

#[derive(Debug)]
struct Kept {
    link: Arc<Link>,
    last_use: Instant,
}

/// Gives each connection of this process a number.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkIds(Arc<AtomicU64>);

impl LinkIds {
    pub(crate) fn next(&self) -> LinkId {
        LinkId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

impl Links {
    pub(crate) fn new(peers: Peers, compute: ComputeHandle, tasks: TaskTracker, ids: LinkIds) -> Self {
        Self { peers, compute, tasks, ids, table: Mutex::default() }
    }

    /// The link to a neighbour, dialled if there is none. Both connections are open when it returns.
    pub(crate) async fn link(&self, to: &PlanStage, kind: LinkKind) -> Result<Arc<Link>, ConnectError> {
        if let Some(link) = self.find(to.node, kind) {
            return Ok(link);
        }
        let addrs = [to.addr];
        let interactive = self.peers.connection(to.node, &addrs, ConnectionClass::Interactive);
        let (interactive, bulk) = match kind {
            LinkKind::Hop => {
                let bulk = self.peers.connection(to.node, &addrs, ConnectionClass::Bulk);
                let (interactive, bulk) = tokio::try_join!(interactive, bulk)?;
                (interactive, Some(bulk))
            }
            LinkKind::TailReturn => (interactive.await?, None),
        };
        let mut table = self.lock();
        let kept = table.get(&(to.node, kind)).filter(|kept| kept.link.is_alive());
        if let Some(kept) = kept {
            // Another open was quicker.
            return Ok(kept.link.clone());
        }
        let link = Arc::new(self.start(to.node, interactive, bulk));
        table.insert((to.node, kind), Kept { link: link.clone(), last_use: Instant::now() });
        Ok(link)
    }

    /// Lets go of links that no session has used for a while, and of their connections.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut table = self.lock();
        table.retain(|&(peer, _), kept| {
            if !kept.link.is_alive() {
                return false;
            }
            if Arc::strong_count(&kept.link) > 1 {
                kept.last_use = now;
            }
            let keep = now.duration_since(kept.last_use) < IDLE;
            if !keep {
                gone.push(peer);
            }
            keep
        });
        for peer in gone {
            if !table.keys().any(|&(other, _)| other == peer) {
                self.peers.forget(peer);
            }
        }
    }

    fn find(&self, peer: NodeId, kind: LinkKind) -> Option<Arc<Link>> {
        let mut table = self.lock();
        let kept = table.get_mut(&(peer, kind))?;
        if !kept.link.is_alive() {
            return None;
        }
        kept.last_use = Instant::now();
        Some(kept.link.clone())
    }

    fn start(&self, peer: NodeId, interactive: Connection, bulk: Option<Connection>) -> Link {
        let id = self.ids.next();
        let alive = CancellationToken::new();
        let (queue, frames) = mpsc::channel(DECODE_QUEUE);
        self.tasks.spawn(sender::write(interactive.clone(), frames, None, alive.clone()));
        let mut watched = vec![interactive];
        let bulk = bulk.map(|bulk| {
            let (queue, frames) = mpsc::channel(BULK_QUEUE);
            self.tasks.spawn(sender::write(bulk.clone(), frames, Some(self.compute.clone()), alive.clone()));
            watched.push(bulk);
            queue
        });
        self.tasks.spawn(watch(watched, alive.clone(), self.compute.clone(), peer, id));
        let released = alive.clone().drop_guard();
        Link { id, interactive: queue, bulk, alive, _released: released }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(NodeId, LinkKind), Kept>> {
        // Every change under the lock is one map operation.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a link: a connection of it is lost, a stream of it fails, or nobody holds it any more.
async fn watch(
    connections: Vec<Connection>,
    alive: CancellationToken,
    compute: ComputeHandle,
    peer: NodeId,
    link: LinkId,
) {
    let lost = async {
        match &connections[..] {
            [one] => one.closed().await,
            [one, two] => tokio::select! { closed = one.closed() => closed, closed = two.closed() => closed },
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        closed = lost => {
            tracing::debug!(peer = %peer.short(), %closed, "neighbour lost");
            alive.cancel();
        }
        () = alive.cancelled() => {}
    }
    compute.send(Command::LinkLost { peer, link }).await;
}

/// Decode frames that wait for the network. Each session has at most one decode row in the whole ring, so a queue as
/// long as the most sessions a node may have open is never full.
const DECODE_QUEUE: usize = proto::activation::MAX_GROUPS;
/// One prefill frame being written and one ready; the compute thread starts no further chunk for this link.
const BULK_QUEUE: usize = 2;
/// A connection costs a ping per 250 ms; dialling again costs the next session a round trip or two.
const IDLE: Duration = Duration::from_mins(1);
