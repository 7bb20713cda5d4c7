//! The one compute thread: owns the stage and all sessions, and with them every decision of the data path.
//!
//! Frames come in as [`Command`]s through one bounded channel; what the session table decides is carried out here:
//! steps run, rows and tokens are put into the queues of links. tokio never runs a tensor library, and nothing here
//! ever waits for the network.

mod record;
mod thread;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use proto::activation::Activations;
use proto::session::{Open, Sampled};
use proto::status::{NodeStatus, Refusal};
use proto::{Generation, NodeId, Position};
use tokio::sync::{mpsc, oneshot, watch};

use crate::links::{Link, ReportLink};
use crate::session::table::LinkId;
use crate::session::{Arrival, Event, Hold, SessionKey, Shape, Terms};

pub(crate) use thread::{ComputeThread, LoadFailure};

/// What the compute thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// May this session start? On success KV is reserved.
    Open {
        router: NodeId,
        open: Box<Open>,
        shape: Option<Box<dyn Shape>>,
        reply: oneshot::Sender<Result<Terms, Refusal>>,
    },
    /// The session's neighbour is connected; answers whether the session is still open.
    Attach { key: SessionKey, generation: Generation, link: Arc<Link>, reply: oneshot::Sender<bool> },
    /// Somebody stands by for the session's next stage, and is reached by this link.
    Follow { key: SessionKey, generation: Generation, link: Arc<Link>, from: Position },
    /// The session's neighbour can't be reached.
    Withdraw { key: SessionKey, generation: Generation },
    /// A control frame of a router.
    Control { key: SessionKey, generation: Generation, event: Event<'static> },
    /// A frame of rows.
    Rows { feeder: NodeId, link: LinkId, frame: Activations, arrival: Arrival, hold: Option<Hold> },
    /// A token from a tail.
    Sampled { feeder: NodeId, link: LinkId, sampled: Sampled, arrival: Arrival },
    /// A peer that may be a router opened an interactive connection.
    PeerUp { peer: NodeId, reports: ReportLink },
    /// A connection that a peer opened is gone; `broken` unless it was closed in good order.
    PeerDown { peer: NodeId, link: LinkId, broken: bool },
    /// A connection that we opened is gone.
    LinkLost { peer: NodeId, link: LinkId },
    /// A bulk queue has room again.
    Room,
    /// Time passes.
    Tick,
    /// Refuse new sessions.
    Drain,
    /// Fail what is open and end.
    ShutDown,
}

/// The way to the compute thread. Clones lead to the same one.
#[derive(Debug, Clone)]
pub(crate) struct ComputeHandle {
    commands: mpsc::Sender<Command>,
    load: Arc<Load>,
    sessions: watch::Receiver<usize>,
}

/// A node's load, readable without asking the compute thread.
#[derive(Debug, Default)]
struct Load {
    sessions: AtomicU32,
    kv_reserved: AtomicU64,
    kv_capacity: AtomicU64,
    step_us: AtomicU32,
    draining: AtomicBool,
}

impl ComputeHandle {
    /// Waits while the thread is behind: that is how a flood of frames is throttled, each stream by itself. After the
    /// thread's end it does nothing.
    pub(crate) async fn send(&self, command: Command) {
        // An error means that the thread has ended, and with it all sessions.
        let _ = self.commands.send(command).await;
    }

    /// Wakes the thread if it may be asleep; with a full channel it is not.
    pub(crate) fn poke(&self, command: Command) {
        let _ = self.commands.try_send(command);
    }

    /// The node's load now.
    pub(crate) fn status(&self) -> NodeStatus {
        let load = &self.load;
        NodeStatus {
            sessions: load.sessions.load(Ordering::Relaxed),
            kv_reserved: load.kv_reserved.load(Ordering::Relaxed),
            kv_capacity: load.kv_capacity.load(Ordering::Relaxed),
            step_us: load.step_us.load(Ordering::Relaxed),
            draining: load.draining.load(Ordering::Relaxed),
        }
    }

    /// Waits until no session is open.
    pub(crate) async fn idle(&self) {
        let mut sessions = self.sessions.clone();
        // An error means that the thread has ended.
        let _ = sessions.wait_for(|&open| open == 0).await;
    }
}

/// Commands that wait while a step runs. A step of 100 ms in a pipeline of 1,024 sessions sees at most one row and one
/// control frame of each; more producers wait, which throttles their streams.
const COMMAND_QUEUE: usize = 2048;
