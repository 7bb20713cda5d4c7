//! One iterative lookup: whom to ask next, when it is over. Pure; the core sends what it says.
//!
//! ```text
//!  seeds --dealt out--> path 0..3, each asks its own nearest contacts, no contact is asked twice
//!                          |  a path is done when its 6 nearest have answered
//!                          v
//!  sweep: the nearest 20 of all paths together, whoever named them --> done when all of these have answered
//! ```
//! The paths are disjoint (S/Kademlia) so that one hostile peer near the start misleads one of them only. All
//! selections are under a subnet cap. A request that is silent for [`SLOW`] gives up its place to the next
//! contact but is still listened to (loose parallelism), so a dead peer costs 220 ms at most once per hop, not
//! its whole timeout.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use proto::NodeId;
use proto::discovery::Contact;
use proto::record::DhtKey;

use super::distance::Distance;
use super::limits::{
    K, LOOKUP_DEADLINE, MAX_ADDRESSES_PER_NODE, MAX_ASKED, MAX_CANDIDATES, MAX_PAGES, MAX_PER_ADDRESS,
    PATH_WIDTH, PATHS, SLOW, SUBNET_CAP,
};
use super::select::subnet_fair;
use super::subnet::{Scope, Subnet, may_dial};

/// A lookup under way.
#[derive(Debug)]
pub(crate) struct Lookup {
    target: DhtKey,
    own: NodeId,
    pace: Pace,
    started: Duration,
    /// Nearest first; at most `MAX_CANDIDATES`.
    candidates: Vec<Candidate>,
    known: HashMap<Contact, Distance>,
    asked: usize,
    answered: usize,
}

/// How much a lookup pays for being fast. Both find the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Requests in flight per path (Kademlia's alpha).
    alpha: usize,
    /// Contacts that a path asks beyond its width.
    path_spare: usize,
    /// Contacts that the sweep asks beyond `width`.
    spare: usize,
    /// Nearest contacts that must have answered at the end.
    width: usize,
    /// The sweep starts when this many peers have answered.
    sweep_after: usize,
}

impl Pace {
    /// Somebody waits for the answer. With a fifth of the nodes dead, 25 must be asked for 20 answers, and the
    /// unlucky tenth of lookups meets 8 dead among 28: asked only when the first ones turned out dead, each
    /// would cost 220 ms more.
    pub(crate) const FAST: Self = Self { alpha: 5, path_spare: 2, spare: 8, width: K, sweep_after: 1 };
    /// Publications and our own neighbourhood: nobody waits.
    pub(crate) const THRIFTY: Self =
        Self { alpha: 1, path_spare: 0, spare: 0, width: K, sweep_after: usize::MAX };
    /// Refreshes: the peers met on the way are all we want.
    pub(crate) const PASSING: Self = Self { width: 0, ..Self::THRIFTY };
}

#[derive(Debug)]
struct Candidate {
    distance: Distance,
    contact: Contact,
    subnet: Subnet,
    /// Bit `p`: named on path `p`.
    paths: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    /// A request is out, asked on this path.
    Asked {
        at: Duration,
        path: u8,
        pages: usize,
    },
    /// The next page is to be asked for.
    More {
        after: NodeId,
        path: u8,
        pages: usize,
    },
    Answered {
        path: u8,
    },
    Failed,
}

/// A request to send for a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) to: Contact,
    /// Continue the pages after this signer.
    pub(crate) after: Option<NodeId>,
}

/// What a lookup wants next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send these (perhaps none) and look again at the latest at `wake`.
    Ask { asks: Vec<Ask>, wake: Duration },
    /// It is over.
    Done,
}

impl Lookup {
    /// Starts from `seeds`, nearest first.
    pub(crate) fn new(target: DhtKey, own: NodeId, pace: Pace, seeds: Vec<Contact>, now: Duration) -> Self {
        let mut lookup = Self {
            target,
            own,
            pace,
            started: now,
            candidates: Vec::new(),
            known: HashMap::new(),
            asked: 0,
            answered: 0,
        };
        for (index, contact) in seeds.into_iter().enumerate() {
            lookup.add(contact, 1 << (index % PATHS));
        }
        lookup
    }

    pub(crate) const fn target(&self) -> &DhtKey {
        &self.target
    }

    pub(crate) const fn started(&self) -> Duration {
        self.started
    }

    pub(crate) const fn asked(&self) -> usize {
        self.asked
    }

    pub(crate) const fn answered(&self) -> usize {
        self.answered
    }

    /// What to do now.
    pub(crate) fn step(&mut self, now: Duration) -> Step {
        let deadline = self.started + LOOKUP_DEADLINE;
        if now >= deadline {
            return Step::Done;
        }
        let mut asks = self.next_pages(now);
        let mut settled = true;
        for path in 0..PATHS as u8 {
            settled &= self.step_path(path, now, &mut asks);
        }
        settled &= self.sweep(settled, now, &mut asks);
        if settled && asks.is_empty() {
            return Step::Done;
        }
        let slow = self.candidates.iter().filter_map(|candidate| match candidate.state {
            State::Asked { at, .. } if at + SLOW > now => Some(at + SLOW),
            _ => None,
        });
        Step::Ask { asks, wake: slow.min().unwrap_or(deadline).min(deadline) }
    }

    /// `from` named these contacts. Returns how many of them must not be dialled.
    pub(crate) fn named(&mut self, from: Contact, contacts: &[Contact]) -> usize {
        let Some(path) = self.find(from).and_then(|at| self.candidates[at].state.path()) else {
            return 0;
        };
        let mut refused = 0;
        for contact in contacts {
            if may_dial(contact.addr, from.addr.ip()) {
                self.add(*contact, 1 << path);
            } else {
                refused += 1;
            }
        }
        self.trim();
        refused
    }

    /// `from` has answered; `more` = its records go on after that signer.
    pub(crate) fn answered_by(&mut self, from: Contact, more: Option<NodeId>) {
        let Some(at) = self.find(from) else { return };
        let State::Asked { path, pages, .. } = self.candidates[at].state else { return };
        self.answered += usize::from(pages == 0);
        self.candidates[at].state = match more {
            Some(after) if pages + 1 < MAX_PAGES => State::More { after, path, pages: pages + 1 },
            _ => State::Answered { path },
        };
        for other in &mut self.candidates {
            if other.contact.node == from.node && other.contact.addr != from.addr {
                other.state = State::Failed;
            }
        }
    }

    /// `from` did not answer, or answered with nonsense: the next contact takes its place.
    pub(crate) fn failed(&mut self, from: Contact) {
        if let Some(at) = self.find(from) {
            self.candidates[at].state = State::Failed;
        }
    }

    /// The nearest contacts that answered, under the subnet cap: who should hold records under the target.
    pub(crate) fn closest(&self) -> Vec<Contact> {
        let answered = self.candidates.iter().filter(|candidate| candidate.has_answered());
        subnet_fair(answered.map(|candidate| (candidate.contact, candidate.subnet)), K, SUBNET_CAP)
    }

    fn next_pages(&mut self, now: Duration) -> Vec<Ask> {
        let mut asks = Vec::new();
        for candidate in &mut self.candidates {
            if let State::More { after, path, pages } = candidate.state {
                candidate.state = State::Asked { at: now, path, pages };
                asks.push(Ask { to: candidate.contact, after: Some(after) });
            }
        }
        asks
    }

    /// Asks the path's next contacts, a few ahead; says whether the path is done: its nearest have answered,
    /// whichever path asked them.
    fn step_path(&mut self, path: u8, now: Duration, asks: &mut Vec<Ask>) -> bool {
        let on_path = |candidate: &Candidate| candidate.paths & (1 << path) != 0;
        let nearest = self.select(PATH_WIDTH + self.pace.path_spare, now, on_path);
        let waiting = |at: &&usize| match self.candidates[**at].state {
            State::Asked { path: asked_on, .. } | State::More { path: asked_on, .. } => asked_on == path,
            _ => false,
        };
        let mut free = self.pace.alpha.saturating_sub(nearest.iter().filter(waiting).count());
        for at in nearest {
            if free > 0 && self.candidates[at].state == State::Fresh {
                self.ask(at, path, now, asks);
                free -= 1;
            }
        }
        self.all_answered(&self.select(PATH_WIDTH, now, on_path))
    }

    /// Asks whoever of the nearest was not asked yet; says whether they have answered. A few more may be asked, so that the place of one that turns out dead is filled already.
    fn sweep(&mut self, paths_done: bool, now: Duration, asks: &mut Vec<Ask>) -> bool {
        if paths_done || self.answered >= self.pace.sweep_after {
            for at in self.select(self.pace.width + self.pace.spare, now, |_| true) {
                if self.candidates[at].state == State::Fresh {
                    let path = self.candidates[at].paths.trailing_zeros() as u8;
                    self.ask(at, path, now, asks);
                }
            }
        }
        self.all_answered(&self.select(self.pace.width, now, |_| true))
    }

    fn all_answered(&self, chosen: &[usize]) -> bool {
        chosen.iter().all(|at| matches!(self.candidates[*at].state, State::Answered { .. }))
    }

    /// The nearest usable candidates that fit, under the subnet cap.
    fn select(&self, count: usize, now: Duration, fits: impl Fn(&Candidate) -> bool) -> Vec<usize> {
        let exhausted = self.asked >= MAX_ASKED;
        let usable = self.candidates.iter().enumerate().filter(|(_, candidate)| {
            let usable = match candidate.state {
                State::Failed => false,
                State::Fresh => !exhausted,
                State::Asked { at, .. } => at + SLOW > now,
                State::More { .. } | State::Answered { .. } => true,
            };
            usable && fits(candidate)
        });
        subnet_fair(usable.map(|(at, candidate)| (at, candidate.subnet)), count, SUBNET_CAP)
    }

    fn ask(&mut self, at: usize, path: u8, now: Duration, asks: &mut Vec<Ask>) {
        if self.asked >= MAX_ASKED {
            return;
        }
        self.asked += 1;
        let candidate = &mut self.candidates[at];
        candidate.state = State::Asked { at: now, path, pages: 0 };
        asks.push(Ask { to: candidate.contact, after: None });
    }

    fn find(&self, contact: Contact) -> Option<usize> {
        let distance = *self.known.get(&contact)?;
        let from = self.first_at(distance);
        let same_node = self.candidates[from..].iter().take_while(|other| other.distance == distance);
        same_node.enumerate().find(|(_, other)| other.contact == contact).map(|(at, _)| from + at)
    }

    fn first_at(&self, distance: Distance) -> usize {
        self.candidates.partition_point(|candidate| candidate.distance < distance)
    }

    /// A node named with several addresses is tried at each: else a wrong one, told first, would hide it.
    fn add(&mut self, contact: Contact, paths: u8) {
        if contact.node == self.own {
            return;
        }
        if let Some(at) = self.find(contact) {
            self.candidates[at].paths |= paths;
            return;
        }
        let distance = Distance::between(&self.target, &DhtKey::of_node(contact.node));
        let at = self.first_at(distance);
        let same_node = self.candidates[at..].iter().take_while(|other| other.distance == distance);
        let (mut addresses, mut reached) = (0, false);
        for other in same_node {
            addresses += 1;
            reached |= other.has_answered();
        }
        if reached || addresses >= MAX_ADDRESSES_PER_NODE || self.crowded(contact.addr.ip()) {
            return;
        }
        self.known.insert(contact, distance);
        let subnet = Subnet::of(contact.addr);
        // Behind those of the same node: what was told first is tried first.
        let at = at + addresses;
        self.candidates.insert(at, Candidate { distance, contact, subnet, paths, state: State::Fresh });
    }

    fn crowded(&self, ip: IpAddr) -> bool {
        Scope::of(ip) == Scope::Public
            && self.candidates.iter().filter(|candidate| candidate.contact.addr.ip() == ip).count()
                >= MAX_PER_ADDRESS
    }

    /// Forgets the furthest contacts that were not asked.
    fn trim(&mut self) {
        let mut excess = self.candidates.len().saturating_sub(MAX_CANDIDATES);
        let mut at = self.candidates.len();
        while excess > 0 && at > 0 {
            at -= 1;
            if self.candidates[at].state == State::Fresh {
                let gone = self.candidates.remove(at);
                self.known.remove(&gone.contact);
                excess -= 1;
            }
        }
    }
}

impl Candidate {
    const fn has_answered(&self) -> bool {
        matches!(self.state, State::Answered { .. } | State::More { .. })
    }
}

impl State {
    const fn path(self) -> Option<u8> {
        match self {
            Self::Asked { path, .. } | Self::More { path, .. } | Self::Answered { path } => Some(path),
            Self::Fresh | Self::Failed => None,
        }
    }
}

#[cfg(test)]
mod tests;
