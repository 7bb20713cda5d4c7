//! The simulated network: nodes, links, the event queue.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::discovery::{Contact, Contacts, StoreOutcome, Stored, Values};
use proto::frame::HEADER_BYTES;
use proto::record::{DhtKey, SignedRecord};
use proto::{FrameHeader, FrameKind, NodeId};

use crate::core::SeededRandom;
use crate::core::{
    Action, Core, Distance, Event, K, Limits, Now, OperationId, Outcome, Peer, Request, Response, RpcId,
};

/// Position of a node in the simulation.
pub type NodeIndex = usize;

/// What the network is like.
#[derive(Debug, Clone)]
pub struct Config {
    /// Feeds everything random.
    pub seed: u64,
    /// Shortest and longest round trip; each pair draws one, evenly.
    pub round_trip: (Duration, Duration),
    /// When a request is given up.
    pub timeout: Duration,
    /// Whether the first request between two nodes costs a further round trip (and timeout) for the handshake.
    pub handshakes: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            round_trip: (Duration::from_millis(20), Duration::from_millis(200)),
            timeout: Duration::from_millis(500),
            handshakes: false,
        }
    }
}

/// The swarm.
#[derive(Debug)]
pub struct Simulation {
    config: Config,
    nodes: Vec<SimNode>,
    by_addr: HashMap<SocketAddr, NodeIndex>,
    queue: BinaryHeap<Reverse<(Duration, u64, Scheduled)>>,
    scheduled: u64,
    now: Duration,
    connected: HashSet<(NodeIndex, NodeIndex)>,
    outcomes: HashMap<(NodeIndex, OperationId), Outcome>,
    next_operation: u64,
    frames: u64,
    frame_bytes: u64,
    random: SeededRandom,
}

#[derive(Debug)]
struct SimNode {
    core: Core,
    contact: Contact,
    key: DhtKey,
    alive: bool,
    hostile: bool,
    /// When a tick is already on its way.
    waking: Duration,
    in_flight: HashSet<RpcId>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scheduled {
    Request { from: NodeIndex, to: NodeIndex, rpc: RpcId, frame: Bytes },
    Reply { to: NodeIndex, rpc: RpcId, frame: Bytes },
    Timeout { node: NodeIndex, rpc: RpcId },
    Tick { node: NodeIndex },
    Join { node: NodeIndex, through: NodeIndex },
}

/// The calendar time at which simulations start.
const EPOCH: u64 = 1_800_000_000;

impl Simulation {
    /// An empty network.
    pub fn new(config: Config) -> Self {
        Self {
            random: SeededRandom::new(config.seed),
            config,
            nodes: Vec::new(),
            by_addr: HashMap::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            now: Duration::ZERO,
            connected: HashSet::new(),
            outcomes: HashMap::new(),
            next_operation: 0,
            frames: 0,
            frame_bytes: 0,
        }
    }

    /// Adds a node at `addr`, not yet joined. A hostile one joins like any other, but answers every question
    /// with the hostile nodes nearest to it, swallows stores and holds nothing.
    pub fn add(&mut self, node: NodeId, addr: SocketAddr, hostile: bool) -> NodeIndex {
        let index = self.nodes.len();
        let seed = self.random.next_u64();
        self.nodes.push(SimNode {
            core: Core::new(node, Some(addr.port()), Limits::default(), seed),
            contact: Contact { node, addr },
            key: DhtKey::of_node(node),
            alive: true,
            hostile,
            waking: Duration::MAX,
            in_flight: HashSet::new(),
        });
        self.by_addr.insert(addr, index);
        index
    }

    /// A public address that no node has, in a subnet drawn at random.
    pub fn free_addr(&mut self) -> SocketAddr {
        loop {
            let [a, b, c, d, ..] = self.random.next_u64().to_le_bytes();
            let ip = Ipv4Addr::new(11 + a % 80, b, c, d.max(1));
            let addr = SocketAddr::from((ip, 7401));
            if !self.by_addr.contains_key(&addr) {
                return addr;
            }
        }
    }

    /// Lets `node` join through `through` at virtual time `at`.
    pub fn join_at(&mut self, at: Duration, node: NodeIndex, through: NodeIndex) {
        self.schedule(at, Scheduled::Join { node, through });
    }

    /// From now on the node neither sends nor answers.
    pub fn kill(&mut self, node: NodeIndex) {
        self.nodes[node].alive = false;
    }

    /// Runs until virtual time `until`.
    pub fn run_until(&mut self, until: Duration) {
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= until) {
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// Starts a lookup at `node`.
    pub fn lookup(&mut self, node: NodeIndex, key: DhtKey) -> OperationId {
        let operation = self.operation();
        self.feed(node, Event::Lookup { operation, key });
        operation
    }

    /// Starts a publication at `node`.
    pub fn publish(&mut self, node: NodeIndex, record: SignedRecord) -> OperationId {
        let operation = self.operation();
        self.feed(node, Event::Publish { operation, record });
        operation
    }

    /// Runs until the operation is over.
    ///
    /// # Panics
    /// If it never ends: a bug of the core.
    pub fn finish(&mut self, node: NodeIndex, operation: OperationId) -> Outcome {
        loop {
            if let Some(outcome) = self.outcomes.remove(&(node, operation)) {
                return outcome;
            }
            assert!(self.step(), "the queue ran dry before the operation ended");
        }
    }

    /// Virtual time.
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// Virtual calendar time.
    pub const fn unix_seconds(&self) -> u64 {
        EPOCH + self.now.as_secs()
    }

    /// A node's core.
    pub fn core(&self, node: NodeIndex) -> &Core {
        &self.nodes[node].core
    }

    /// Number of nodes ever added.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the node is honest and alive.
    pub fn is_honest_and_alive(&self, node: NodeIndex) -> bool {
        self.nodes[node].alive && !self.nodes[node].hostile
    }

    /// Frames sent so far, and their bytes.
    pub const fn traffic(&self) -> (u64, u64) {
        (self.frames, self.frame_bytes)
    }

    /// A number in `0..bound` from the simulation's seed.
    pub fn draw(&mut self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    fn operation(&mut self) -> OperationId {
        self.next_operation += 1;
        OperationId(self.next_operation)
    }

    fn schedule(&mut self, at: Duration, what: Scheduled) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, what)));
    }

    fn step(&mut self) -> bool {
        let Some(Reverse((at, _, what))) = self.queue.pop() else { return false };
        self.now = at;
        match what {
            Scheduled::Request { from, to, rpc, frame } => self.request_arrives(from, to, rpc, &frame),
            Scheduled::Reply { to, rpc, frame } => {
                if self.nodes[to].in_flight.remove(&rpc) {
                    let (kind, body) = parse(&frame);
                    let event = match Response::decode(kind, &body) {
                        Ok(response) => Event::Answered { rpc, response },
                        Err(_) => Event::Failed { rpc },
                    };
                    self.feed(to, event);
                }
            }
            Scheduled::Timeout { node, rpc } => {
                if self.nodes[node].in_flight.remove(&rpc) {
                    self.feed(node, Event::Failed { rpc });
                }
            }
            Scheduled::Tick { node } => {
                self.nodes[node].waking = Duration::MAX;
                self.feed(node, Event::Tick);
            }
            Scheduled::Join { node, through } => {
                let contact = self.nodes[through].contact;
                self.feed(node, Event::Joined { contact });
            }
        }
        true
    }

    fn clock(&self) -> Now {
        Now { elapsed: self.now, unix_seconds: self.unix_seconds() }
    }

    fn feed(&mut self, node: NodeIndex, event: Event) {
        if !self.nodes[node].alive {
            return;
        }
        let now = self.clock();
        let actions = self.nodes[node].core.on_event(now, event);
        self.carry_out(node, actions);
    }

    fn carry_out(&mut self, node: NodeIndex, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { rpc, to, request, .. } => self.send(node, rpc, to, &request),
                Action::Deliver { operation, outcome } => {
                    self.outcomes.insert((node, operation), outcome);
                }
                Action::Reply(_) | Action::Ignore => {}
            }
        }
        let wake = self.nodes[node].core.next_wake().max(self.now);
        if wake < self.nodes[node].waking {
            self.nodes[node].waking = wake;
            self.schedule(wake, Scheduled::Tick { node });
        }
    }

    fn send(&mut self, from: NodeIndex, rpc: RpcId, to: Contact, request: &Request) {
        self.nodes[from].in_flight.insert(rpc);
        let frame = self.frame(request.encode());
        let mut timeout = self.config.timeout;
        let reached = self.by_addr.get(&to.addr).copied().filter(|index| self.nodes[*index].contact == to);
        if let Some(index) = reached {
            let mut delay = self.round_trip(from, index) / 2;
            if self.config.handshakes && !self.connected.contains(&(from, index)) {
                delay += self.round_trip(from, index);
                timeout *= 2;
            }
            self.schedule(self.now + delay, Scheduled::Request { from, to: index, rpc, frame });
        }
        self.schedule(self.now + timeout, Scheduled::Timeout { node: from, rpc });
    }

    fn request_arrives(&mut self, from: NodeIndex, to: NodeIndex, rpc: RpcId, frame: &Bytes) {
        if !self.nodes[to].alive {
            return;
        }
        if self.config.handshakes {
            self.connected.insert((from, to));
        }
        let (kind, body) = parse(frame);
        let Ok(request) = Request::decode(kind, &body) else { return };
        let peer = Peer { node: self.nodes[from].contact.node, addr: self.nodes[from].contact.addr };
        let response = if self.nodes[to].hostile && !matches!(request, Request::Ping(_)) {
            Some(self.hostile_reply(to, &request))
        } else {
            let now = self.clock();
            let mut actions = self.nodes[to].core.on_event(now, Event::Request { peer, request });
            let reply = actions.iter().position(|action| matches!(action, Action::Reply(_)));
            let reply = reply.map(|at| actions.remove(at));
            self.carry_out(to, actions);
            match reply {
                Some(Action::Reply(response)) => Some(response),
                _ => None,
            }
        };
        if let Some(response) = response {
            let frame = self.frame(response.encode());
            let at = self.now + self.round_trip(from, to) / 2;
            self.schedule(at, Scheduled::Reply { to: from, rpc, frame });
        }
    }

    /// Hostile nodes know each other and name nobody else.
    fn hostile_reply(&self, node: NodeIndex, request: &Request) -> Response {
        let nearest = |target: &DhtKey| {
            let mut sybils: Vec<(Distance, Contact)> = self
                .nodes
                .iter()
                .filter(|other| other.hostile && other.contact.node != self.nodes[node].contact.node)
                .map(|other| (Distance::between(target, &other.key), other.contact))
                .collect();
            sybils.sort_unstable_by_key(|(distance, _)| *distance);
            sybils.into_iter().take(K).map(|(_, contact)| contact).collect::<Vec<_>>()
        };
        match request {
            Request::FindValue(body) => {
                Response::Values(Values { records: Vec::new(), more: false, contacts: nearest(&body.key) })
            }
            Request::FindNode(body) => Response::Contacts(Contacts { contacts: nearest(&body.target) }),
            Request::Ping(_) | Request::Store(_) => Response::Stored(Stored { outcome: StoreOutcome::Kept }),
        }
    }

    fn frame(&mut self, (kind, body): (FrameKind, Bytes)) -> Bytes {
        let header = FrameHeader::new(kind, body.len()).expect("our own messages keep their frame's limit");
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + body.len());
        frame.extend_from_slice(&header.to_bytes());
        frame.extend_from_slice(&body);
        self.frames += 1;
        self.frame_bytes += frame.len() as u64;
        frame.freeze()
    }

    /// The same for both directions, from the seed and the pair.
    fn round_trip(&self, a: NodeIndex, b: NodeIndex) -> Duration {
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        let mut random = SeededRandom::new(self.config.seed ^ pair.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (shortest, longest) = self.config.round_trip;
        let spread = longest.saturating_sub(shortest).as_micros() as u64;
        shortest + Duration::from_micros(random.below(spread + 1))
    }
}

fn parse(frame: &Bytes) -> (FrameKind, Bytes) {
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&frame[..HEADER_BYTES]);
    let header = FrameHeader::parse(header).expect("the simulated network does not damage frames");
    (header.kind(), frame.slice(HEADER_BYTES..))
}
