//! What the router believes of the swarm, with the time it believed it.

use std::collections::BTreeMap;

use proto::NodeId;
use proto::record::{NodeRecord, ShardOffer, VerifiedRecord};

use crate::Measurement;

/// One node as the router sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeView {
    record: VerifiedRecord,
    /// What was measured.
    pub measured: Measurement,
}

impl NodeView {
    /// What the node announced.
    pub const fn record(&self) -> &NodeRecord {
        self.record.record()
    }

    /// The same with its proof.
    pub const fn verified(&self) -> &VerifiedRecord {
        &self.record
    }

    /// Who it is.
    pub const fn node(&self) -> NodeId {
        self.record.node()
    }

    /// The shard it announced, if any.
    pub const fn offer(&self) -> Option<&ShardOffer> {
        self.record().offer.as_ref()
    }
}

/// Verified records and measurements at one moment. Ordered by node, so that decisions do not depend on the order in
/// which records arrived.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    at_unix_s: u64,
    nodes: BTreeMap<NodeId, NodeView>,
}

impl View {
    /// An empty view of the given time, seconds since the Unix epoch.
    pub const fn at(at_unix_s: u64) -> Self {
        Self { at_unix_s, nodes: BTreeMap::new() }
    }

    /// A view of the given time with these records.
    pub fn of_records(at_unix_s: u64, records: impl IntoIterator<Item = VerifiedRecord>) -> Self {
        let mut view = Self::at(at_unix_s);
        for record in records {
            view.insert(record);
        }
        view
    }

    /// Takes a record. The newest sequence of a node wins; a tombstone removes the node.
    pub fn insert(&mut self, record: VerifiedRecord) {
        let node = record.node();
        let known = self.nodes.get(&node);
        if known.is_some_and(|known| known.record().sequence > record.record().sequence) {
            return;
        }
        if record.record().withdrawn {
            self.nodes.remove(&node);
            return;
        }
        let measured = known.map(|known| known.measured.clone()).unwrap_or_default();
        self.nodes.insert(node, NodeView { record, measured });
    }

    /// Takes what was measured of a node; unknown nodes are ignored.
    pub fn measure(&mut self, node: NodeId, measured: Measurement) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.measured = measured;
        }
    }

    /// Says why a node can't be used at present.
    pub fn mark_unreachable(&mut self, node: NodeId, why: impl Into<String>) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.measured.unreachable = Some(why.into());
        }
    }

    /// The same of a node that has not answered yet: see [`View::with_late`].
    pub fn mark_late(&mut self, node: NodeId, why: impl Into<String>) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.measured.unreachable = Some(why.into());
            known.measured.late = true;
        }
    }

    /// With those that had not answered yet, for whoever finds no route without them: what they do when they are asked
    /// shows soon enough.
    #[must_use]
    pub fn with_late(&self) -> Self {
        let mut patient = self.clone();
        for known in patient.nodes.values_mut().filter(|known| known.measured.late) {
            known.measured.unreachable = None;
        }
        patient
    }

    /// The time of the view, seconds since the Unix epoch.
    pub const fn unix_s(&self) -> u64 {
        self.at_unix_s
    }

    /// One node.
    pub fn node(&self, node: NodeId) -> Option<&NodeView> {
        self.nodes.get(&node)
    }

    /// All nodes, ordered by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.values()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the node's lease has run out at the time of the view.
    pub fn is_expired(&self, node: &NodeView) -> bool {
        node.record().expires_unix_s() < self.at_unix_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, Shard, node};

    #[test]
    fn who_had_not_answered_yet_may_be_asked_and_who_can_not_be_reached_may_not() {
        let mut view = View::of_records(NOW, [1, 2].map(|number| Shard::new(number, 0, 4).record()));
        view.mark_late(node(1), "it did not answer within 200 ms");
        view.mark_unreachable(node(2), "refused");
        let unreachable =
            |view: &View, number| view.node(node(number)).unwrap().measured.unreachable.is_some();
        assert_eq!([1, 2].map(|number| unreachable(&view, number)), [true, true]);
        assert_eq!([1, 2].map(|number| unreachable(&view.with_late(), number)), [false, true]);
    }

    #[test]
    fn the_newest_record_wins_and_a_tombstone_removes_it() {
        let old = Shard::new(1, 0, 4).record();
        let new = Shard { sequence: 2, ..Shard::new(1, 4, 8) }.record();
        let view = View::of_records(NOW, [new.clone(), old.clone()]);
        assert_eq!(view.node(new.node()).unwrap().record(), new.record());
        let gone = Shard { sequence: 3, withdrawn: true, ..Shard::new(1, 4, 8) }.record();
        assert!(View::of_records(NOW, [old, new, gone]).is_empty());
    }
}
