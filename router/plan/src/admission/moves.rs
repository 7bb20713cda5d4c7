//! Sessions that go on at another place, as a node of their route is lost or about to leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::NodeId;

use super::queue::Waiting;
use super::{Admission, Decision, On, Placed, Ticket, TurnedAway, Wanted};
use crate::route::{Route, choose_route};

impl Admission {
    /// A node that a session was placed on is lost in the middle of the answer: it takes another place, before all that
    /// wait, if there is one until `until`.
    pub fn lost(
        &mut self,
        now: Duration,
        ticket: Ticket,
        (node, why): (NodeId, TurnedAway),
        until: Duration,
    ) -> Vec<Decision> {
        if let Some(placed) = self.placed.get_mut(&ticket) {
            placed.wanted.until = until;
            placed.tries = 0;
            placed.goes_on_without(node);
        }
        self.turned_away(now, ticket, node, why)
    }

    /// What a request avoids two of whose nodes can't reach each other: both if there is a route without them, as one
    /// of them is cut off and nobody can tell which; else the one that is not reached, else the other.
    pub(super) fn parted(
        &self,
        wanted: &Wanted,
        mut avoid: BTreeSet<NodeId>,
        (node, from): (NodeId, NodeId),
    ) -> BTreeSet<NodeId> {
        let none = BTreeMap::new();
        for without in [&[node, from][..], &[node], &[from]] {
            let wider: BTreeSet<NodeId> = avoid.iter().chain(without).copied().collect();
            if choose_route(self.ledger.empty_view(), &self.request(wanted, &wider, &none)).is_ok() {
                return wider;
            }
        }
        avoid.insert(node);
        avoid
    }

    /// What a request avoids one of whose nodes may be gone: that one if there is a route without it.
    pub(super) fn suspected(
        &self,
        wanted: &Wanted,
        avoid: BTreeSet<NodeId>,
        node: NodeId,
    ) -> BTreeSet<NodeId> {
        let mut wider = avoid.clone();
        wider.insert(node);
        let without = choose_route(self.ledger.empty_view(), &self.request(wanted, &wider, &BTreeMap::new()));
        if without.is_ok() { wider } else { avoid }
    }

    /// A node of a session's route that is about to leave, by the view.
    pub fn leaving(&self, ticket: Ticket) -> Option<NodeId> {
        let draining = |node: &NodeId| {
            let known = self.ledger.view().node(*node);
            known.is_some_and(|known| known.measured.load.is_some_and(|load| load.draining))
        };
        self.placed.get(&ticket)?.on.stages.iter().map(|&(node, _)| node).find(draining)
    }

    /// Another place for a session, without a node that is about to leave, if there is one now; otherwise it keeps the
    /// one it has.
    pub fn leave(&mut self, now: Duration, ticket: Ticket, node: NodeId) -> Option<Route> {
        let mut placed = self.placed.remove(&ticket)?;
        self.free(&placed);
        placed.goes_on_without(node);
        placed.avoid.insert(node);
        let request = self.request(&placed.wanted, &placed.avoid, &placed.prefer);
        let found = choose_route(self.ledger.view(), &request).ok();
        let Placed { wanted, avoid, prefer, tries, asked, hint, .. } = placed;
        let waiting = Waiting { ticket, wanted, avoid, prefer, tries, since: asked, passed: 0, hint };
        match &found {
            Some(route) => {
                self.place(now, waiting, On::new(route));
            }
            None => self.place(now, waiting, placed.on),
        }
        found
    }
}

impl Placed {
    /// Its answer goes on in the class it began in, by the nodes that hold its rows if they can.
    fn goes_on_without(&mut self, node: NodeId) {
        self.wanted.class = Some(self.on.class);
        self.prefer.extend(self.on.stages.iter().copied());
        self.prefer.remove(&node);
        let lost = self.on.stages.iter().position(|&(other, _)| other == node);
        let Some((place, &(_, span))) = lost.and_then(|place| Some((place, self.on.stages.get(place)?)))
        else {
            return;
        };
        // Whoever stands by for it holds its rows; others that stand by hold fewer than the stages themselves.
        let standbys = self.on.standbys.iter().filter(|&&(stage, _)| stage == place);
        self.prefer.extend(standbys.map(|&(_, standby)| (standby, span)));
    }
}
