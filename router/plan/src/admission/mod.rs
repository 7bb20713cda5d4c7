//! Admission of one model's requests: which waits, which is placed on which route, which is refused and why.
//!
//! A pure machine: the time is an argument, counted from any fixed moment. It owns the queue, the fairness between
//! tenants and the account of what this router has placed on each node. It does not open sessions: whoever does reports
//! what became of them.
//!
//! ```text
//!  submit --> waiting --room on a route--> placed --release--> over
//!     |          |  ^                        |
//!     |          |  '----- turned away ------'   (another route at once, if there is one; a bounded number of times)
//!     '----------+--> refused: queue full, waited too long, no route, too large, turned away too often, closed
//! ```

mod hold;
mod ledger;
mod moves;
mod no_room;
mod queue;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId, NodeId};

use crate::route::{Route, RouteRequest, choose_route};
use crate::view::View;
use hold::{Hold, RETRY_LATEST};
use ledger::Ledger;
use no_room::NoRoom;
use queue::{Queue, Waiting};

pub use queue::{Priority, Tenant, TenantError};
pub use refusal::AdmissionRefusal;

/// The bounds of one model's admission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmissionLimits {
    /// Requests that wait at most.
    pub queue: usize,
    /// Sessions that this router places on a node at once.
    pub sessions_per_node: u32,
    /// Times that a request may be turned away by nodes before it is refused.
    pub tries: u32,
    /// Sessions have nodes that stand by for their stages, where there are some with room.
    pub standby: bool,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        // A queue as long as what a node serves at once is worked off in about one answer's time; a longer one only
        // makes people wait for a refusal.
        Self { queue: 256, sessions_per_node: 256, tries: 4, standby: false }
    }
}

/// A request's number in its model's admission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Whose share it counts against.
    pub tenant: Tenant,
    /// Its place among the tenant's own requests.
    pub priority: Priority,
    /// Positions that every stage must reserve.
    pub positions: u32,
    /// The numerics class; `None` takes any.
    pub class: Option<NumericsClass>,
    /// It waits until then at most.
    pub until: Duration,
}

/// What was decided about a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It has a place on this route.
    Placed(Route),
    /// It is over.
    Refused(AdmissionRefusal),
}

/// A decision about one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Which.
    pub ticket: Ticket,
    /// What.
    pub verdict: Verdict,
}

/// Why a node did not take a placed session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TurnedAway {
    /// It has no room: others have filled it.
    NoCapacity {
        /// When there may be some, by its own word.
        retry_after: Option<Duration>,
    },
    /// It could not be used.
    Failed,
    /// It does not report: it may be gone, or only slow. Without it if there is such a route, else with it once more.
    Suspected,
    /// It and this other node can't reach each other.
    Parted {
        /// The other one.
        from: NodeId,
    },
}

/// Admission of one model.
#[derive(Debug)]
pub struct Admission {
    model: ModelId,
    n_layers: u32,
    limits: AdmissionLimits,
    ledger: Ledger,
    queue: Queue,
    placed: HashMap<Ticket, Placed>,
    next: u64,
    hold: Hold,
    closed: bool,
}

#[derive(Debug)]
struct Placed {
    wanted: Wanted,
    on: On,
    avoid: BTreeSet<NodeId>,
    prefer: BTreeMap<NodeId, LayerSpan>,
    tries: u32,
    /// When it was submitted.
    asked: Duration,
    since: Duration,
    /// The longest time that a node gave it.
    hint: Duration,
}

/// What a session takes a place on.
#[derive(Clone, Debug)]
struct On {
    class: NumericsClass,
    /// The route's nodes, in order, each with its layers.
    stages: Vec<(NodeId, LayerSpan)>,
    /// Who stands by for which stage.
    standbys: Vec<(usize, NodeId)>,
}

impl On {
    fn new(route: &Route) -> Self {
        Self {
            class: route.class,
            stages: route.stages.iter().map(|stage| (stage.node, stage.span)).collect(),
            standbys: route.standbys.iter().map(|standby| (standby.stage, standby.at.node)).collect(),
        }
    }

    fn all(&self) -> impl Iterator<Item = NodeId> {
        self.stages.iter().map(|&(node, _)| node).chain(self.standbys.iter().map(|&(_, node)| node))
    }
}

impl Admission {
    /// Without a view nothing is placed and everything waits.
    pub fn new(model: ModelId, n_layers: u32, limits: AdmissionLimits) -> Self {
        Self {
            model,
            n_layers,
            limits,
            ledger: Ledger::default(),
            queue: Queue::default(),
            placed: HashMap::new(),
            next: 0,
            hold: Hold::default(),
            closed: false,
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Requests that have a place.
    pub fn placed(&self) -> usize {
        self.placed.len()
    }

    /// Takes what was newly learnt of the swarm, with measurements.
    pub fn set_view(&mut self, now: Duration, view: View) -> Vec<Decision> {
        self.ledger.set_view(view, self.limits.sessions_per_node);
        self.pump(now)
    }

    /// A new request. Its verdict is among the decisions, or comes later.
    pub fn submit(&mut self, now: Duration, wanted: Wanted) -> (Ticket, Vec<Decision>) {
        let ticket = Ticket(self.next);
        self.next += 1;
        let waiting = Waiting {
            ticket,
            wanted,
            avoid: BTreeSet::new(),
            prefer: BTreeMap::new(),
            tries: 0,
            since: now,
            passed: 0,
            hint: Duration::ZERO,
        };
        let mut decisions = Vec::new();
        match self.enqueue(now, waiting, Place::Last) {
            Ok(()) => decisions = self.pump(now),
            Err(refusal) => decisions.push(Decision { ticket, verdict: Verdict::Refused(refusal) }),
        }
        // Only what finds no place at once takes one in the queue. What nodes turned away comes on top.
        if self.queue.len() > self.limits.queue
            && let Some(tenant) = self.queue.get(ticket).map(|waiting| waiting.wanted.tenant.clone())
            && let Some(gone) = self.queue.make_room(&tenant, ticket)
        {
            let retry_after = self.hint(self.limits.queue, gone.hint);
            let refusal = if gone.ticket == ticket {
                AdmissionRefusal::QueueFull { waiting: self.limits.queue, retry_after }
            } else {
                AdmissionRefusal::Displaced { waited: now.saturating_sub(gone.since), retry_after }
            };
            decisions.push(Decision { ticket: gone.ticket, verdict: Verdict::Refused(refusal) });
        }
        (ticket, decisions)
    }

    /// What a request of this tenant would be told if it found no place at once, known before anything else of it is:
    /// what is needed to place it may take time that a refusal should not.
    pub fn would_refuse(&self, tenant: &Tenant) -> Option<AdmissionRefusal> {
        if self.closed {
            return Some(AdmissionRefusal::Closed);
        }
        let full = self.queue.len() >= self.limits.queue && !self.queue.makes_room(tenant);
        full.then(|| AdmissionRefusal::QueueFull {
            waiting: self.limits.queue,
            retry_after: self.retry_after(self.limits.queue),
        })
    }

    /// A node did not take a session that was placed on it.
    pub fn turned_away(
        &mut self,
        now: Duration,
        ticket: Ticket,
        node: NodeId,
        why: TurnedAway,
    ) -> Vec<Decision> {
        let Some(placed) = self.placed.remove(&ticket) else { return Vec::new() };
        self.free(&placed);
        self.ledger.shut(node, why);
        let Placed { wanted, mut avoid, prefer, tries, asked, mut hint, .. } = placed;
        match why {
            TurnedAway::NoCapacity { retry_after } => hint = hint.max(retry_after.unwrap_or_default()),
            TurnedAway::Failed => drop(avoid.insert(node)),
            TurnedAway::Suspected => avoid = self.suspected(&wanted, avoid, node),
            TurnedAway::Parted { from } => avoid = self.parted(&wanted, avoid, (node, from)),
        }
        let tries = tries + 1;
        if tries >= self.limits.tries {
            let refusal = AdmissionRefusal::TurnedAway { tries, retry_after: self.hint(0, hint) };
            let mut decisions = vec![Decision { ticket, verdict: Verdict::Refused(refusal) }];
            decisions.extend(self.pump(now));
            return decisions;
        }
        let waiting = Waiting { ticket, wanted, avoid, prefer, tries, since: asked, passed: 0, hint };
        let mut decisions = Vec::new();
        if let Err(refusal) = self.enqueue(now, waiting, Place::First) {
            decisions.push(Decision { ticket, verdict: Verdict::Refused(refusal) });
        }
        decisions.extend(self.pump(now));
        // Its time may be over already.
        decisions.extend(self.expire(now));
        decisions
    }

    /// A request is over or not wanted any more: its place, waiting or not, is free.
    pub fn release(&mut self, now: Duration, ticket: Ticket) -> Vec<Decision> {
        if let Some(placed) = self.placed.remove(&ticket) {
            self.free(&placed);
            let held = now.saturating_sub(placed.since);
            self.hold.ended(held);
        } else if self.queue.remove(ticket).is_none() {
            return Vec::new();
        }
        // One that waited may have kept others from a place that was too small for it.
        self.pump(now)
    }

    /// Refuses what has waited for too long.
    pub fn expire(&mut self, now: Duration) -> Vec<Decision> {
        let late = self.queue.take_late(now);
        if late.is_empty() {
            return Vec::new();
        }
        let ahead = self.queue.len();
        let refused = |waiting: Waiting| {
            let refusal = AdmissionRefusal::Waited {
                waited: now.saturating_sub(waiting.since),
                retry_after: self.hint(ahead, waiting.hint),
            };
            Decision { ticket: waiting.ticket, verdict: Verdict::Refused(refusal) }
        };
        let mut decisions: Vec<Decision> = late.into_iter().map(refused).collect();
        decisions.extend(self.pump(now));
        decisions
    }

    /// Refuses everything that waits, and everything from now on.
    pub fn close(&mut self) -> Vec<Decision> {
        self.closed = true;
        let refused = |waiting: Waiting| Decision {
            ticket: waiting.ticket,
            verdict: Verdict::Refused(AdmissionRefusal::Closed),
        };
        self.queue.take_all().into_iter().map(refused).collect()
    }

    /// Whether the request could be placed on an empty swarm; only then it is worth waiting.
    fn enqueue(&mut self, now: Duration, waiting: Waiting, place: Place) -> Result<(), AdmissionRefusal> {
        // What had a place is finished.
        if self.closed && place == Place::Last {
            return Err(AdmissionRefusal::Closed);
        }
        if self.ledger.knows_nodes() {
            let request = self.request(&waiting.wanted, &waiting.avoid, &waiting.prefer);
            if let Err(source) = choose_route(self.ledger.empty_view(), &request) {
                return Err(match self.ledger.largest(&request) {
                    Some(largest) if largest < u64::from(waiting.wanted.positions) => {
                        AdmissionRefusal::TooLarge { positions: waiting.wanted.positions, largest }
                    }
                    _ => AdmissionRefusal::NoRoute { source, retry_after: RECOVERY },
                });
            }
        }
        // One that had a place and lost it takes another if there is one; its time to wait is the one it had.
        if place == Place::Last && waiting.wanted.until <= now {
            return Err(AdmissionRefusal::Waited {
                waited: now.saturating_sub(waiting.since),
                retry_after: self.retry_after(self.queue.len()),
            });
        }
        match place {
            Place::First => self.queue.push_first(waiting),
            Place::Last => self.queue.push_last(waiting),
        }
        Ok(())
    }

    /// Places what has room, in fair order. A request that does not fit may be overtaken a bounded number of times on
    /// nodes that it could use; then these are kept for it, so that large ones get their turn.
    fn pump(&mut self, now: Duration) -> Vec<Decision> {
        let mut decisions = Vec::new();
        // Room only shrinks here, so what found none finds none later on either.
        let mut no_room = NoRoom::default();
        'again: loop {
            let mut blocked = Vec::new();
            let (mut kept, mut keepers) = (BTreeSet::new(), 0);
            for ticket in self.queue.heads() {
                let Some(waiting) = self.queue.get(ticket) else { continue };
                let Waiting { wanted, avoid, prefer, passed, .. } = waiting;
                let without: BTreeSet<NodeId> = avoid | &kept;
                if !no_room.covers(wanted, &without) {
                    let request = self.request(wanted, &without, prefer);
                    if let Ok(route) = choose_route(self.ledger.view(), &request) {
                        self.queue.overtake(&blocked, &route);
                        let Some(waiting) = self.queue.remove(ticket) else { continue };
                        self.place(now, waiting, On::new(&route));
                        decisions.push(Decision { ticket, verdict: Verdict::Placed(route) });
                        continue 'again;
                    }
                    no_room.found(wanted, &without);
                }
                if no_room.len() >= SCANNED || keepers >= SCANNED {
                    break;
                }
                if *passed >= OVERTAKEN {
                    keepers += 1;
                    kept.extend(self.ledger.useful(&self.request(wanted, avoid, prefer)));
                }
                blocked.push(ticket);
            }
            return decisions;
        }
    }

    fn place(&mut self, now: Duration, waiting: Waiting, on: On) {
        let Waiting { ticket, wanted, avoid, prefer, tries, since: asked, hint, .. } = waiting;
        for node in on.all() {
            self.ledger.take(node, wanted.positions);
        }
        self.queue.began(&wanted.tenant);
        let placed = Placed { wanted, on, avoid, prefer, tries, asked, since: now, hint };
        self.placed.insert(ticket, placed);
    }

    fn free(&mut self, placed: &Placed) {
        for node in placed.on.all() {
            self.ledger.give_back(node, placed.wanted.positions);
        }
        self.queue.ended(&placed.wanted.tenant);
    }

    fn request(
        &self,
        wanted: &Wanted,
        avoid: &BTreeSet<NodeId>,
        prefer: &BTreeMap<NodeId, LayerSpan>,
    ) -> RouteRequest {
        RouteRequest {
            model: self.model,
            n_layers: self.n_layers,
            class: wanted.class,
            max_positions: wanted.positions,
            exclude: avoid.clone(),
            prefer: prefer.clone(),
            standby: self.limits.standby,
        }
    }

    /// What a refused request is told: not sooner than the nodes that refused it said, who know of others' sessions.
    fn hint(&self, ahead: usize, nodes_say: Duration) -> Duration {
        self.retry_after(ahead).max(nodes_say.min(RETRY_LATEST))
    }

    fn retry_after(&self, ahead: usize) -> Duration {
        self.hold.retry_after(ahead, self.placed.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    First,
    Last,
}

/// Requests that may be placed before one that did not fit: enough to fill the holes that a large request leaves.
const OVERTAKEN: u32 = 8;
/// Routes looked for in vain until the others wait for the next change. Each is a search over all nodes, and with a
/// tenant for each waiting request there are as many heads as the queue is long.
const SCANNED: usize = 16;
/// A node that was restarted announces itself within some seconds.
const RECOVERY: Duration = Duration::from_secs(5);
