//! What was looked for in vain while room only shrank: so that one search answers for all that are as hard to place.

use std::collections::BTreeSet;

use proto::NodeId;
use proto::tensor::NumericsClass;

use super::Wanted;

/// Searches without a result: class, nodes left out, positions.
#[derive(Debug, Default)]
pub(super) struct NoRoom(Vec<(Option<NumericsClass>, BTreeSet<NodeId>, u32)>);

impl NoRoom {
    /// Whether it is at least as hard to place as one that was looked for.
    pub(super) fn covers(&self, wanted: &Wanted, avoid: &BTreeSet<NodeId>) -> bool {
        let harder = |(class, without, positions): &(Option<NumericsClass>, BTreeSet<NodeId>, u32)| {
            (class.is_none() || *class == wanted.class)
                && without.is_subset(avoid)
                && *positions <= wanted.positions
        };
        self.0.iter().any(harder)
    }

    /// There is no room for it.
    pub(super) fn found(&mut self, wanted: &Wanted, avoid: &BTreeSet<NodeId>) {
        self.0.push((wanted.class, avoid.clone(), wanted.positions));
    }

    /// Routes that were looked for.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}
