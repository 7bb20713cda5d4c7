//! Operations of the core: lookups with their purpose, and publications made of lookups and stores.

use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::discovery::{Contact, FindNode, FindValue, Store, StoreOutcome, Values};
use proto::record::{DhtKey, SignedRecord, VerifiedRecord};

use super::counters::Rejection;
use super::distance::Distance;
use super::event::{Found, OperationId, Outcome};
use super::limits::K;
use super::lookup::{Lookup, Pace, Step};
use super::message::{Request, Response};
use super::record_set::RecordSet;
use super::store::belongs;
use super::subnet::Subnet;
use super::{Action, Core, Now, Purpose};
use crate::directory::{LookupError, PublishError, Published};

/// A lookup and what it is for.
#[derive(Debug)]
pub(super) struct LookupTask {
    lookup: Lookup,
    pub(super) purpose: LookupPurpose,
    pub(super) wake: Duration,
}

/// What happens with what a lookup finds.
#[derive(Debug)]
pub(super) enum LookupPurpose {
    /// Somebody wants the records.
    Find { operation: OperationId, found: RecordSet },
    /// The nearest peers are to hold a record.
    Publish { operation: OperationId, key: DhtKey },
    /// Find our own neighbourhood, then refresh the buckets in front of it.
    Join,
    /// Find our own neighbourhood again.
    Neighbourhood,
    /// The peers met on the way are all we want.
    Refresh,
}

/// A record on its way to the holders of all its keys.
#[derive(Debug)]
pub(super) struct Publication {
    record: Arc<VerifiedRecord>,
    /// Keys whose lookup is under way; at most four.
    searching: usize,
    storing: usize,
    tally: Published,
}

impl Core {
    pub(super) fn start_lookup(
        &mut self,
        now: Now,
        operation: OperationId,
        key: DhtKey,
        actions: &mut Vec<Action>,
    ) {
        if self.lookups.len() >= self.limits.lookups {
            let outcome = Outcome::Found(Err(LookupError::Busy));
            actions.push(Action::Deliver { operation, outcome });
            return;
        }
        let mut found = RecordSet::default();
        let (held, _) = self.store.page(&key, None, usize::MAX, now.unix_seconds);
        for record in held {
            let subnet = announced_subnet(&record);
            found.offer(record, subnet);
        }
        self.begin_lookup(now, key, LookupPurpose::Find { operation, found }, actions);
    }

    pub(super) fn start_publish(
        &mut self,
        now: Now,
        operation: OperationId,
        record: SignedRecord,
        actions: &mut Vec<Action>,
    ) {
        match self.publishable(now, record) {
            Ok(record) => self.publish(now, operation, record, actions),
            Err(error) => {
                actions.push(Action::Deliver { operation, outcome: Outcome::Published(Err(error)) });
            }
        }
    }

    fn publishable(&mut self, now: Now, record: SignedRecord) -> Result<Arc<VerifiedRecord>, PublishError> {
        let record = self.verified.verify(record, now.unix_seconds)?;
        if record.node() != self.own {
            return Err(PublishError::NotOurs { signer: record.node(), own: self.own });
        }
        if self.lookups.len() + keys_of(&record).len() > self.limits.lookups {
            return Err(PublishError::Busy);
        }
        Ok(record)
    }

    fn publish(
        &mut self,
        now: Now,
        operation: OperationId,
        record: Arc<VerifiedRecord>,
        actions: &mut Vec<Action>,
    ) {
        let keys = keys_of(&record);
        let tally = Published { keys: keys.len(), ..Published::default() };
        let publication =
            Publication { record: Arc::clone(&record), searching: keys.len(), storing: 0, tally };
        self.publications.insert(operation, publication);
        // Tombstones too: a new neighbour may still hold what they delete.
        self.announced = Some(record);
        for key in keys {
            self.begin_lookup(now, key, LookupPurpose::Publish { operation, key }, actions);
        }
    }

    /// Internal lookups (join, refresh) are not counted against the limit: there is one of them at most.
    pub(super) fn begin_lookup(
        &mut self,
        now: Now,
        target: DhtKey,
        purpose: LookupPurpose,
        actions: &mut Vec<Action>,
    ) {
        let id = self.next_lookup;
        self.next_lookup += 1;
        self.table.touch(&target, now.elapsed);
        let seeds = self.table.closest(&target, K, |_| true);
        let pace = match purpose {
            LookupPurpose::Find { .. } => Pace::FAST,
            LookupPurpose::Publish { .. } | LookupPurpose::Join | LookupPurpose::Neighbourhood => {
                Pace::THRIFTY
            }
            LookupPurpose::Refresh => Pace::PASSING,
        };
        let lookup = Lookup::new(target, self.own, pace, seeds, now.elapsed);
        self.lookups.insert(id, LookupTask { lookup, purpose, wake: now.elapsed });
        self.advance(now, id, actions);
    }

    /// Sends what the lookup wants next, or ends it.
    pub(super) fn advance(&mut self, now: Now, id: u64, actions: &mut Vec<Action>) {
        let Some(task) = self.lookups.get_mut(&id) else { return };
        let (asks, wake) = match task.lookup.step(now.elapsed) {
            Step::Ask { asks, wake } => (asks, wake),
            Step::Done => {
                if let Some(task) = self.lookups.remove(&id) {
                    self.finish_lookup(now, task, actions);
                }
                return;
            }
        };
        task.wake = wake;
        let (target, listen_port) = (*task.lookup.target(), self.listen_port);
        let wants_records = matches!(task.purpose, LookupPurpose::Find { .. });
        for ask in asks {
            let request = if wants_records {
                Request::FindValue(FindValue { key: target, after: ask.after, listen_port })
            } else {
                Request::FindNode(FindNode { target, listen_port })
            };
            self.send(ask.to, Purpose::Lookup { lookup: id, after: ask.after }, request, actions);
        }
    }

    pub(super) fn lookup_answered(
        &mut self,
        now: Now,
        id: u64,
        from: Contact,
        after: Option<NodeId>,
        response: Response,
        actions: &mut Vec<Action>,
    ) {
        if !self.lookups.contains_key(&id) {
            return;
        }
        match self.read_answer(now, id, after, response) {
            Ok((contacts, more)) => {
                if let Some(task) = self.lookups.get_mut(&id) {
                    for _ in 0..task.lookup.named(from, &contacts) {
                        self.counters.reject(Rejection::BadContact);
                    }
                    task.lookup.answered_by(from, more);
                }
                self.advance(now, id, actions);
            }
            // Whoever answers with nonsense has not answered: somebody else is asked in its place.
            Err(reason) => {
                self.counters.reject(reason);
                self.lookup_failed(now, id, from, actions);
            }
        }
    }

    pub(super) fn lookup_failed(&mut self, now: Now, id: u64, from: Contact, actions: &mut Vec<Action>) {
        if let Some(task) = self.lookups.get_mut(&id) {
            task.lookup.failed(from);
            self.advance(now, id, actions);
        }
    }

    /// Takes the records out of an answer; returns its contacts and where its records go on.
    fn read_answer(
        &mut self,
        now: Now,
        id: u64,
        after: Option<NodeId>,
        response: Response,
    ) -> Result<(Vec<Contact>, Option<NodeId>), Rejection> {
        let Self { lookups, verified, counters, .. } = self;
        let Some(task) = lookups.get_mut(&id) else { return Err(Rejection::BadReply) };
        let key = *task.lookup.target();
        match (&mut task.purpose, response) {
            (LookupPurpose::Find { found, .. }, Response::Values(values)) => {
                let Values { records, more, contacts } = values;
                let mut last = after;
                for signed in records {
                    let signer = signed.claimed_signer();
                    if last.is_some_and(|last| signer <= last) {
                        return Err(Rejection::BadReply);
                    }
                    last = Some(signer);
                    match verified.verify(signed, now.unix_seconds) {
                        Ok(record) if belongs(&record, &key) => {
                            let subnet = announced_subnet(&record);
                            found.offer(record, subnet);
                        }
                        Ok(_) => return Err(Rejection::WrongKey),
                        Err(error) => {
                            let reason = Rejection::from(&error);
                            if reason.is_misconduct() {
                                return Err(reason);
                            }
                            counters.reject(reason);
                        }
                    }
                }
                if more && last == after {
                    return Err(Rejection::BadReply);
                }
                Ok((contacts, last.filter(|_| more)))
            }
            (LookupPurpose::Find { .. }, _) => Err(Rejection::BadReply),
            (_, Response::Contacts(reply)) => Ok((reply.contacts, None)),
            _ => Err(Rejection::BadReply),
        }
    }

    fn finish_lookup(&mut self, now: Now, task: LookupTask, actions: &mut Vec<Action>) {
        let LookupTask { lookup, purpose, .. } = task;
        match purpose {
            LookupPurpose::Find { operation, found } => {
                let outcome = Outcome::Found(finish_find(now, &lookup, &found));
                actions.push(Action::Deliver { operation, outcome });
            }
            LookupPurpose::Publish { operation, key } => {
                self.store_at(operation, key, &lookup, actions);
            }
            LookupPurpose::Join => {
                // Every bucket in front of our neighbourhood, the furthest first: it serves the most lookups.
                self.to_refresh = (0..self.table.depth().saturating_sub(1)).rev().collect();
                self.refresh(now, actions);
            }
            LookupPurpose::Neighbourhood => {}
            LookupPurpose::Refresh => {
                if !self.to_refresh.is_empty() {
                    self.refresh(now, actions);
                }
            }
        }
    }

    /// The lookup of one key of a publication is over: store at the nearest, and here if we are one of them.
    fn store_at(&mut self, operation: OperationId, key: DhtKey, lookup: &Lookup, actions: &mut Vec<Action>) {
        let Some(publication) = self.publications.get_mut(&operation) else { return };
        let holders = lookup.closest();
        publication.searching -= 1;
        publication.storing += holders.len();
        let record = Arc::clone(&publication.record);
        let own = Distance::between(&key, &DhtKey::of_node(self.own));
        let near = holders.len() < K
            || holders.iter().any(|holder| Distance::between(&key, &DhtKey::of_node(holder.node)) > own);
        if self.listen_port.is_some() && near {
            let subnet = announced_subnet(&record);
            if let Err(reason) = self.store.store(key, &record, subnet) {
                self.counters.reject(reason);
            }
        }
        for holder in holders {
            let store = Store { key, record: record.signed().clone(), listen_port: self.listen_port };
            self.send(holder, Purpose::Store { operation }, Request::Store(store), actions);
        }
        self.finish_publication(operation, actions);
    }

    /// A store was answered with `outcome`, or not at all.
    pub(super) fn store_ended(
        &mut self,
        operation: OperationId,
        outcome: Option<StoreOutcome>,
        actions: &mut Vec<Action>,
    ) {
        let Some(publication) = self.publications.get_mut(&operation) else { return };
        publication.storing -= 1;
        match outcome {
            Some(StoreOutcome::Kept) => publication.tally.kept += 1,
            Some(_) => publication.tally.refused += 1,
            None => publication.tally.unanswered += 1,
        }
        self.finish_publication(operation, actions);
    }

    fn finish_publication(&mut self, operation: OperationId, actions: &mut Vec<Action>) {
        let over = |publication: &Publication| publication.searching == 0 && publication.storing == 0;
        if !self.publications.get(&operation).is_some_and(over) {
            return;
        }
        let Some(Publication { tally, .. }) = self.publications.remove(&operation) else { return };
        let Published { kept, refused, unanswered, .. } = tally;
        let result = if kept == 0 && refused + unanswered > 0 {
            Err(PublishError::NotKept { refused, unanswered })
        } else {
            Ok(tally)
        };
        actions.push(Action::Deliver { operation, outcome: Outcome::Published(result) });
    }
}

fn finish_find(now: Now, lookup: &Lookup, found: &RecordSet) -> Result<Found, LookupError> {
    let live = |record: &&Arc<VerifiedRecord>| {
        !record.record().withdrawn && record.record().expires_unix_s() >= now.unix_seconds
    };
    let records: Vec<_> = found.records().filter(live).cloned().collect();
    let (asked, answered) = (lookup.asked(), lookup.answered());
    if answered == 0 && records.is_empty() {
        return Err(if asked == 0 {
            LookupError::NoPeers("the routing table is empty".into())
        } else {
            LookupError::Unanswered { asked }
        });
    }
    Ok(Found { records, asked, answered, took: now.elapsed.saturating_sub(lookup.started()) })
}

/// The keys a record is published under; tombstones keep those of the record they delete.
pub(super) fn keys_of(record: &VerifiedRecord) -> Vec<DhtKey> {
    let facts = record.record();
    DhtKey::of_offer(facts.node, facts.offer.as_ref())
}

/// Where a lookup's find claims to be. Only a claim, but forging it gains little: whoever forges spreads over
/// subnets that the holders, who saw the real address, have already capped.
fn announced_subnet(record: &VerifiedRecord) -> Subnet {
    let unspecified = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    Subnet::of(record.record().addresses.first().copied().unwrap_or(unspecified))
}
