//! What all tasks of the driver share: the core behind a lock, and the carrying out of its actions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::discovery::Contact;
use proto_transport::{Connection, ConnectionClass, Peers, Target};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::unix_millis;
use crate::core::{Action, Core, Counters, Event, Now, OperationId, Outcome, Request, Response, RpcId};
use crate::metrics::DiscoveryMetrics;

/// The core and everything that moves bytes and time for it.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    started: Instant,
    pub(super) peers: Peers,
    pub(super) metrics: DiscoveryMetrics,
    /// Owner of every task; bounded by the core's own bounds on requests.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// The next wake may have come nearer.
    rescheduled: Notify,
    /// Size of the routing table, for whoever waits for the first peer.
    table_len: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    core: Core,
    /// Who waits for an operation; bounded by the core's limit of lookups.
    waiting: HashMap<OperationId, oneshot::Sender<Outcome>>,
    next_operation: u64,
    mirrored: Counters,
}

impl Shared {
    pub(super) fn new(core: Core, peers: Peers, metrics: DiscoveryMetrics) -> Arc<Self> {
        let state = State { core, waiting: HashMap::new(), next_operation: 0, mirrored: Counters::default() };
        Arc::new(Self {
            state: Mutex::new(state),
            started: Instant::now(),
            peers,
            metrics,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            rescheduled: Notify::new(),
            table_len: watch::Sender::new(0),
        })
    }

    /// Tells the core and carries out what it says. Returns the reply if the event was a request.
    pub(super) fn feed(self: &Arc<Self>, event: Event) -> Option<Response> {
        let now = self.now();
        let mut reply = None;
        let mut sends = Vec::new();
        {
            let mut guard = self.lock();
            let state = &mut *guard;
            let wake = state.core.next_wake();
            for action in state.core.on_event(now, event) {
                match action {
                    Action::Send { rpc, to, request } => sends.push((rpc, to, request)),
                    Action::Reply(response) => reply = Some(response),
                    Action::Ignore => {}
                    Action::Deliver { operation, outcome } => {
                        if let Some(waiting) = state.waiting.remove(&operation) {
                            // Whoever asked may have lost interest.
                            let _ = waiting.send(outcome);
                        }
                    }
                }
            }
            if state.core.next_wake() < wake {
                self.rescheduled.notify_one();
            }
            self.metrics.mirror(&state.core, &mut state.mirrored);
            let len = state.core.table_len();
            self.table_len.send_if_modified(|held| std::mem::replace(held, len) != len);
        }
        for (rpc, to, request) in sends {
            let shared = Arc::clone(self);
            self.tasks.spawn(async move { shared.send(rpc, to, request).await });
        }
        reply
    }

    /// Starts an operation and waits for its end; `None` if the driver ends first.
    pub(super) async fn operate(
        self: &Arc<Self>,
        event: impl FnOnce(OperationId) -> Event,
    ) -> Option<Outcome> {
        if self.stop.is_cancelled() {
            return None;
        }
        let (report, outcome) = oneshot::channel();
        let operation = {
            let mut state = self.lock();
            let operation = OperationId(state.next_operation);
            state.next_operation += 1;
            state.waiting.insert(operation, report);
            operation
        };
        self.feed(event(operation));
        tokio::select! {
            () = self.stop.cancelled() => None,
            outcome = outcome => outcome.ok(),
        }
    }

    /// Ticks the core whenever it wants, until the end.
    pub(super) async fn keep_time(self: Arc<Self>) {
        loop {
            let wake = self.started + self.read(Core::next_wake).min(LONGEST_SLEEP);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.rescheduled.notified() => continue,
                () = tokio::time::sleep_until(wake) => {}
            }
            self.feed(Event::Tick);
        }
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.lock().core)
    }

    pub(super) fn table_len(&self) -> watch::Receiver<usize> {
        self.table_len.subscribe()
    }

    fn now(&self) -> Now {
        Now { elapsed: self.started.elapsed(), unix_seconds: unix_millis() / 1000 }
    }

    /// One request, from dial to answer; reports exactly one outcome unless the driver ends.
    async fn send(self: Arc<Self>, rpc: RpcId, to: Contact, request: Request) {
        let answered = tokio::select! {
            () = self.stop.cancelled() => return,
            answered = self.ask(to, &request) => answered,
        };
        self.feed(match answered {
            Some(response) => Event::Answered { rpc, response },
            None => Event::Failed { rpc },
        });
    }

    async fn ask(&self, to: Contact, request: &Request) -> Option<Response> {
        // Failures are the core's to judge (and counted); who wants the reason turns on debug.
        let give_up = |what: &str, why: &dyn std::fmt::Display| {
            tracing::debug!(peer = %to.node.short(), addr = %to.addr, %why, "{what}");
        };
        let connection = match tokio::time::timeout(DIAL_TIMEOUT, self.dial(to)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                give_up("peer not reached", &error);
                return None;
            }
            Err(_) => {
                give_up("peer not reached", &"timed out");
                return None;
            }
        };
        let (kind, body) = request.encode();
        let frame = match connection.request(kind, body, REQUEST_TIMEOUT).await {
            Ok(frame) => frame,
            Err(error) => {
                give_up("no answer", &error);
                return None;
            }
        };
        Response::decode(frame.kind, &frame.body).inspect_err(|error| give_up("bad answer", error)).ok()
    }

    /// A connection that we dialled to exactly this address.
    async fn dial(&self, to: Contact) -> Result<Connection, proto_transport::ConnectError> {
        let class = ConnectionClass::Discovery;
        let pooled = self.peers.connection(to.node, &[to.addr], class).await?;
        if canonical(pooled.remote_addr()) == canonical(to.addr) {
            return Ok(pooled);
        }
        // The pool knows the peer elsewhere; whether it is here too is the question.
        self.peers.endpoint().connect(Target::node(to.node, to.addr), class).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The core is consistent between events; a panic inside one is a bug that its own task has reported.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn canonical(addr: SocketAddr) -> (std::net::IpAddr, u16) {
    (addr.ip().to_canonical(), addr.port())
}

/// A handshake over 200 ms of round trip with one lost packet.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Twice the longest usual round trip, and room for a busy machine.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// `Instant` cannot be moved arbitrarily far.
const LONGEST_SLEEP: Duration = Duration::from_hours(24 * 365);
