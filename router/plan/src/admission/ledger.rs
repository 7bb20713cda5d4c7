//! What this router has placed on each node beside what the node said of itself, as a view in which nodes without room
//! have none.

use std::collections::BTreeMap;

use proto::NodeId;

use super::TurnedAway;
use crate::measurement::{Load, Measurement};
use crate::route::{RouteRequest, choose_route, usable_nodes};
use crate::view::{NodeView, View};

/// The account of all nodes of a view.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// As if nobody used it: tells "no route" from "no room".
    empty: View,
    /// With everything taken off that is taken.
    view: View,
    accounts: BTreeMap<NodeId, Account>,
    sessions_per_node: u32,
}

/// One node's account.
#[derive(Clone, Debug, Default)]
struct Account {
    /// Taken by sessions of this router.
    own: Taken,
    /// Taken by others, by the node's last word.
    foreign: Taken,
    capacity: u64,
    measured: Measurement,
    /// It said that it has no room, whatever it seemed.
    full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Taken {
    sessions: u32,
    positions: u64,
}

impl Ledger {
    pub(super) const fn view(&self) -> &View {
        &self.view
    }

    pub(super) const fn empty_view(&self) -> &View {
        &self.empty
    }

    pub(super) fn knows_nodes(&self) -> bool {
        !self.empty.is_empty()
    }

    pub(super) fn set_view(&mut self, view: View, sessions_per_node: u32) {
        self.sessions_per_node = sessions_per_node;
        let own: BTreeMap<NodeId, Taken> =
            self.accounts.iter().map(|(&node, account)| (node, account.own)).collect();
        // Nodes that vanished keep their accounts as long as something is placed on them.
        self.accounts.retain(|_, account| account.own != Taken::default());
        for node in view.nodes() {
            let own = own.get(&node.node()).copied().unwrap_or_default();
            self.accounts.insert(node.node(), Account::of(node, own));
        }
        self.empty = view.clone();
        self.view = view;
        let nodes: Vec<NodeId> = self.view.nodes().map(NodeView::node).collect();
        for node in nodes {
            if let Some(account) = self.accounts.get(&node) {
                self.empty.measure(node, account.when_empty());
            }
            self.refresh(node);
        }
    }

    /// A session begins there.
    pub(super) fn take(&mut self, node: NodeId, positions: u32) {
        let account = self.accounts.entry(node).or_default();
        account.own.sessions += 1;
        account.own.positions += u64::from(positions);
        self.refresh(node);
    }

    /// A session has ended there.
    pub(super) fn give_back(&mut self, node: NodeId, positions: u32) {
        if let Some(account) = self.accounts.get_mut(&node) {
            account.own.sessions = account.own.sessions.saturating_sub(1);
            account.own.positions = account.own.positions.saturating_sub(u64::from(positions));
            account.full = false;
            self.refresh(node);
        }
    }

    /// It did not take a session: nothing more is placed there until it is heard of again, or until a session of ours
    /// ends there.
    pub(super) fn shut(&mut self, node: NodeId, why: TurnedAway) {
        if let Some(account) = self.accounts.get_mut(&node) {
            match why {
                TurnedAway::NoCapacity { .. } => account.full = true,
                // One of the two is at fault: the next look at them will tell.
                TurnedAway::Parted { .. } | TurnedAway::Suspected => {}
                TurnedAway::Failed => {
                    account.measured.unreachable = Some("it failed a session just now".into());
                }
            }
            self.refresh(node);
        }
    }

    /// Positions that the largest route has when nobody uses it; `None` if there is no route of any size.
    pub(super) fn largest(&self, request: &RouteRequest) -> Option<u64> {
        let mut smaller = request.clone();
        let mut sizes: Vec<u64> = self
            .accounts
            .values()
            .map(|account| account.capacity)
            .filter(|&size| size < u64::from(request.max_positions))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes.into_iter().rev().find(|&size| {
            smaller.max_positions = size as u32;
            choose_route(&self.empty, &smaller).is_ok()
        })
    }

    /// Nodes that could take part when nobody uses them.
    pub(super) fn useful(&self, request: &RouteRequest) -> Vec<NodeId> {
        usable_nodes(&self.empty, request)
    }

    fn refresh(&mut self, node: NodeId) {
        if let Some(account) = self.accounts.get(&node) {
            self.view.measure(node, account.now(self.sessions_per_node));
        }
    }
}

impl Account {
    fn of(node: &NodeView, own: Taken) -> Self {
        let capacity = node.offer().map_or(0, |offer| offer.kv_capacity);
        let taken = node.measured.load.map_or_else(Taken::default, |load| Taken {
            sessions: load.sessions,
            positions: capacity.saturating_sub(load.kv_free),
        });
        let foreign = Taken {
            sessions: taken.sessions.saturating_sub(own.sessions),
            positions: taken.positions.saturating_sub(own.positions),
        };
        Self { own, foreign, capacity, measured: node.measured.clone(), full: false }
    }

    fn when_empty(&self) -> Measurement {
        self.with(Taken::default(), self.capacity)
    }

    fn now(&self, sessions_per_node: u32) -> Measurement {
        let taken = Taken {
            // What nodes say of themselves may be any number.
            sessions: self.own.sessions.saturating_add(self.foreign.sessions),
            positions: self.own.positions.saturating_add(self.foreign.positions),
        };
        let shut = self.full || self.own.sessions >= sessions_per_node;
        self.with(taken, if shut { 0 } else { self.capacity.saturating_sub(taken.positions) })
    }

    fn with(&self, taken: Taken, kv_free: u64) -> Measurement {
        let load = Load {
            sessions: taken.sessions,
            kv_free,
            step_us: self.measured.load.and_then(|load| load.step_us),
            draining: self.measured.load.is_some_and(|load| load.draining),
        };
        Measurement { load: Some(load), ..self.measured.clone() }
    }
}
