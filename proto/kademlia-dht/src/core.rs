//! The sans-IO core: routing table, lookups, record store. No socket, clock or randomness inside.
//!
//! [`Core::on_event`] takes the time and what happened and says what to do. Equal seeds, times and events give
//! equal actions, which is what the simulation stands on. It decides:
//! * who enters the routing table ([`table`]): only peers that *we* dialled, whose handshake proved their id, and
//!   that answered. A peer that asks us and says that it listens is dialled back at the address its packets come
//!   from and the port it names, nowhere else.
//! * whom a lookup asks next ([`lookup`]), and whom a record is stored at: the 20 nearest that answered;
//! * which records are kept ([`store`]): verified, under a key that follows from the record, brought by their
//!   signer.
//!
//! # What it does not withstand
//! Ids are cheap: whoever grinds ids nearer to a key than every honest node stands among its 20 holders. Only the
//! subnet caps stand against that (2 holders per public /24 or /48), so such an attacker needs ten subnets to own a
//! key altogether, and then does: the simulation finds every record against 8 subnets and none against 16.
//! Lookups then return what the attacker likes to show, which is nothing or records of its own; it cannot forge
//! anybody's. Tables and other keys are not affected. Inside a LAN (exempt addresses) there is no cap at all.

mod counters;
mod distance;
mod event;
mod limits;
mod lookup;
mod message;
mod operation;
mod rate;
mod record_set;
mod seed;
mod select;
mod serve;
mod store;
mod subnet;
mod table;
mod time;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::discovery::{Contact, Ping, Store};
use proto::record::{DhtKey, VerifiedRecord};

use operation::{LookupPurpose, LookupTask, Publication};
use rate::RateLimiter;
pub(crate) use seed::SeededRandom;
use store::RecordStore;
use table::{Placement, Table};
use verify::VerifyCache;

pub use counters::{Counters, Rejection};
pub use distance::Distance;
pub use event::{Action, Event, Found, OperationId, Outcome, Peer, RpcId};
pub use limits::{K, Limits, RECORDS_PER_KEY};
pub use message::{Request, Response};
pub use rate::Rate;
pub use subnet::{Scope, Subnet, may_dial};
pub use time::Now;

/// One node's Kademlia.
#[derive(Debug)]
pub struct Core {
    own: NodeId,
    listen_port: Option<u16>,
    limits: Limits,
    table: Table,
    store: RecordStore,
    verified: VerifyCache,
    random: SeededRandom,
    counters: Counters,
    request_rates: RateLimiter<NodeId>,
    store_rates: RateLimiter<NodeId>,
    subnet_rates: RateLimiter<Subnet>,
    dial_back_rates: RateLimiter<NodeId>,
    /// Requests out. Bounded by lookups x their width, stores of publications, dial-backs and probes.
    pending: BTreeMap<RpcId, Pending>,
    next_rpc: u64,
    /// Bounded by `Limits::lookups`.
    lookups: BTreeMap<u64, LookupTask>,
    next_lookup: u64,
    /// Bounded by `Limits::lookups`: each has one under way.
    publications: BTreeMap<OperationId, Publication>,
    /// Our own record, stored at once at a new neighbour that is among the nearest to one of its keys.
    announced: Option<Arc<VerifiedRecord>>,
    dial_backs: BTreeSet<NodeId>,
    /// Buckets to refresh after joining. At most 256.
    to_refresh: Vec<usize>,
    /// When to look ourselves up again, and how long after that the next time.
    next_self_lookup: Duration,
    self_lookup_interval: Duration,
    next_maintenance: Duration,
}

/// What a request was sent for.
#[derive(Debug)]
struct Pending {
    to: Contact,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy)]
enum Purpose {
    Lookup {
        lookup: u64,
        after: Option<NodeId>,
    },
    Store {
        operation: OperationId,
    },
    /// To a new neighbour, outside of any publication.
    Repair,
    Probe,
    DialBack,
}

impl Core {
    /// A node that knows nobody. `listen_port` = where it can be dialled for discovery, `None` for a client that
    /// only asks; `seed` feeds refresh targets and jitter.
    pub fn new(own: NodeId, listen_port: Option<u16>, limits: Limits, seed: u64) -> Self {
        let key = DhtKey::of_node(own);
        let peers = limits.remembered_peers;
        // One dial-back per peer and half minute: a peer that is not dialable keeps asking.
        let dial_back = Rate { per_second: 1.0 / 30.0, burst: 2.0 };
        Self {
            own,
            listen_port,
            table: Table::new(key),
            store: RecordStore::new(key, limits.store_bytes),
            verified: VerifyCache::default(),
            random: SeededRandom::new(seed),
            counters: Counters::default(),
            request_rates: RateLimiter::new(limits.requests, peers),
            store_rates: RateLimiter::new(limits.stores, peers),
            subnet_rates: RateLimiter::new(limits.subnet_requests, peers),
            dial_back_rates: RateLimiter::new(dial_back, peers),
            limits,
            pending: BTreeMap::new(),
            next_rpc: 0,
            lookups: BTreeMap::new(),
            next_lookup: 0,
            publications: BTreeMap::new(),
            announced: None,
            dial_backs: BTreeSet::new(),
            to_refresh: Vec::new(),
            next_self_lookup: Duration::MAX,
            self_lookup_interval: limits::FIRST_SELF_LOOKUP,
            next_maintenance: Duration::ZERO,
        }
    }

    /// Tells the core what happened; carries out nothing itself.
    pub fn on_event(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Request { peer, request } => self.on_request(now, peer, request, &mut actions),
            Event::Answered { rpc, response } => self.on_answer(now, rpc, response, &mut actions),
            Event::Failed { rpc } => self.on_failure(now, rpc, &mut actions),
            Event::Joined { contact } => self.on_joined(now, contact, &mut actions),
            Event::Remembered { contacts } => {
                for contact in contacts.into_iter().take(MAX_REMEMBERED) {
                    self.ping(contact, Purpose::Probe, &mut actions);
                }
            }
            Event::Lookup { operation, key } => self.start_lookup(now, operation, key, &mut actions),
            Event::Publish { operation, record } => self.start_publish(now, operation, record, &mut actions),
            Event::Tick => self.on_tick(now, &mut actions),
        }
        actions
    }

    /// When [`Event::Tick`] is due at the latest, in time since the core was created.
    pub fn next_wake(&self) -> Duration {
        let lookups = self.lookups.values().map(|task| task.wake).min().unwrap_or(Duration::MAX);
        lookups.min(self.next_maintenance).min(self.next_self_lookup)
    }

    /// Who we are.
    pub const fn own(&self) -> NodeId {
        self.own
    }

    /// Contacts in the routing table.
    pub fn contacts(&self) -> Vec<Contact> {
        self.table.contacts().collect()
    }

    /// Size of the routing table.
    pub fn table_len(&self) -> usize {
        self.table.len()
    }

    /// Records held for others and ourselves.
    pub fn records(&self) -> usize {
        self.store.records()
    }

    /// Estimated memory of the records held.
    pub fn record_bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Lookups under way.
    pub fn lookups(&self) -> usize {
        self.lookups.len()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.verified = self.verified.checked();
        counters
    }

    fn on_joined(&mut self, now: Now, contact: Contact, actions: &mut Vec<Action>) {
        if self.table.is_empty() {
            // The first time, or everybody was lost: begin anew.
            self.next_self_lookup = Duration::MAX;
            self.self_lookup_interval = limits::FIRST_SELF_LOOKUP;
        }
        self.met(now, contact, actions);
        self.join(now, actions);
    }

    /// Looks ourselves up as soon as somebody is known, then again at growing intervals: in a swarm that is just
    /// starting, the first answer knows only whoever came before us.
    fn join(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.next_self_lookup == Duration::MAX && !self.table.is_empty() {
            self.look_up_self(now, LookupPurpose::Join, actions);
        }
    }

    fn look_up_self(&mut self, now: Now, purpose: LookupPurpose, actions: &mut Vec<Action>) {
        // Jitter: nodes that were started together must not look together.
        let jitter = self.random.below(self.self_lookup_interval.as_millis() as u64 / 4);
        self.next_self_lookup = now.elapsed + self.self_lookup_interval + Duration::from_millis(jitter);
        self.self_lookup_interval = (self.self_lookup_interval * 4).min(limits::REFRESH_AFTER);
        self.begin_lookup(now, DhtKey::of_node(self.own), purpose, actions);
    }

    /// A peer that we dialled has proved its id and answered: offer it a place in the table.
    fn met(&mut self, now: Now, contact: Contact, actions: &mut Vec<Action>) {
        match self.table.verified(contact, now.elapsed) {
            Placement::Inserted => self.repair(now, contact, actions),
            Placement::Waiting(Some(oldest)) => self.ping(oldest, Purpose::Probe, actions),
            Placement::Waiting(None) | Placement::Refreshed | Placement::Own => {}
        }
    }

    /// Brings our record to a new neighbour at once where it is among the nearest to one of its keys: in a small
    /// or young swarm nobody has to wait for the next announcement.
    fn repair(&mut self, now: Now, contact: Contact, actions: &mut Vec<Action>) {
        let Some(record) = self.announced.clone() else { return };
        if record.record().expires_unix_s() < now.unix_seconds {
            self.announced = None;
            return;
        }
        for key in operation::keys_of(&record) {
            if self.table.closest(&key, K, |_| true).contains(&contact) {
                let store = Store { key, record: record.signed().clone(), listen_port: self.listen_port };
                self.send(contact, Purpose::Repair, Request::Store(store), actions);
            }
        }
    }

    fn on_answer(&mut self, now: Now, rpc: RpcId, response: Response, actions: &mut Vec<Action>) {
        let Some(Pending { to, purpose }) = self.pending.remove(&rpc) else { return };
        if let Purpose::DialBack = purpose {
            self.dial_backs.remove(&to.node);
        }
        self.met(now, to, actions);
        match purpose {
            Purpose::Lookup { lookup, after } => {
                self.lookup_answered(now, lookup, to, after, response, actions);
            }
            Purpose::Store { operation } => {
                let outcome = match response {
                    Response::Stored(stored) => Some(stored.outcome),
                    _ => None,
                };
                self.store_ended(operation, outcome, actions);
            }
            Purpose::Repair | Purpose::Probe | Purpose::DialBack => {}
        }
        self.join(now, actions);
    }

    fn on_failure(&mut self, now: Now, rpc: RpcId, actions: &mut Vec<Action>) {
        let Some(Pending { to, purpose }) = self.pending.remove(&rpc) else { return };
        self.counters.failed += 1;
        self.table.failed(to);
        match purpose {
            Purpose::Lookup { lookup, .. } => self.lookup_failed(now, lookup, to, actions),
            Purpose::Store { operation } => self.store_ended(operation, None, actions),
            Purpose::DialBack => {
                self.dial_backs.remove(&to.node);
            }
            Purpose::Repair | Purpose::Probe => {}
        }
    }

    fn on_tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        let due: Vec<u64> =
            self.lookups.iter().filter(|(_, task)| task.wake <= now.elapsed).map(|(id, _)| *id).collect();
        for lookup in due {
            self.advance(now, lookup, actions);
        }
        if now.elapsed >= self.next_self_lookup {
            self.look_up_self(now, LookupPurpose::Neighbourhood, actions);
        }
        if now.elapsed >= self.next_maintenance {
            let jitter = Duration::from_millis(self.random.below(2_000));
            self.next_maintenance = now.elapsed + limits::MAINTENANCE + jitter;
            self.store.expire(now.unix_seconds);
            self.refresh(now, actions);
        }
    }

    /// Starts one refresh at a time: what joining queued first, then the longest neglected bucket.
    fn refresh(&mut self, now: Now, actions: &mut Vec<Action>) {
        let busy = self
            .lookups
            .values()
            .any(|task| matches!(task.purpose, LookupPurpose::Join | LookupPurpose::Refresh));
        if busy || self.table.is_empty() {
            return;
        }
        let queued = self.to_refresh.pop();
        let Some(bucket) = queued.or_else(|| self.table.stale_bucket(now.elapsed, limits::REFRESH_AFTER))
        else {
            return;
        };
        let mut random = [0; 32];
        self.random.fill(&mut random);
        let target = self.table.key_in_bucket(bucket, random);
        self.begin_lookup(now, target, LookupPurpose::Refresh, actions);
    }

    fn ping(&mut self, to: Contact, purpose: Purpose, actions: &mut Vec<Action>) {
        let ping = Request::Ping(Ping { listen_port: self.listen_port });
        self.send(to, purpose, ping, actions);
    }

    fn send(&mut self, to: Contact, purpose: Purpose, request: Request, actions: &mut Vec<Action>) {
        let rpc = RpcId(self.next_rpc);
        self.next_rpc += 1;
        self.counters.sent += 1;
        self.pending.insert(rpc, Pending { to, purpose });
        actions.push(Action::Send { rpc, to, request });
    }
}

/// Contacts of an earlier run that are pinged at the start: enough to find back into any swarm.
const MAX_REMEMBERED: usize = 64;

#[cfg(test)]
mod tests;
