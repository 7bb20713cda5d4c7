//! Who stands by for the stages of a route: nodes outside it that hold their layers, the cheapest first.
//!
//! A node stands by for one stage of a session only, as its loss should cost the session one stage. Stages with the
//! fewest candidates choose first, so that none goes without because another took the only one.

use std::collections::BTreeSet;

use proto::NodeId;

use crate::cost::compute_us;
use crate::route::{Route, RouteRequest, RouteStage, address, usable};
use crate::view::View;

/// A node that stands by for a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standby {
    /// For which one, counted from 0.
    pub stage: usize,
    /// The node, with the stage's layers.
    pub at: RouteStage,
}

/// At most one for each stage; ordered by stage. Deterministic like the route itself.
pub(crate) fn choose_standbys(view: &View, request: &RouteRequest, route: &Route) -> Vec<Standby> {
    let on_route: BTreeSet<NodeId> = route.stages.iter().map(|stage| stage.node).collect();
    let mut wanted: Vec<(usize, Vec<RouteStage>)> = route
        .stages
        .iter()
        .enumerate()
        .map(|(stage, at)| {
            let mut candidates: Vec<_> = usable(view, request, route.class)
                .filter(|node| !on_route.contains(&node.node()))
                .filter(|node| node.offer().is_some_and(|offer| offer.span.holds(at.span)))
                .filter_map(|node| {
                    let found = RouteStage { node: node.node(), addr: address(node)?, span: at.span };
                    Some((compute_us(node), found))
                })
                .collect();
            candidates.sort_by_key(|&(cost, found)| (cost, found.node));
            (stage, candidates.into_iter().map(|(_, found)| found).collect())
        })
        .collect();
    wanted.sort_by_key(|(stage, candidates)| (candidates.len(), *stage));
    let mut taken = BTreeSet::new();
    let mut found: Vec<Standby> = wanted
        .into_iter()
        .filter_map(|(stage, candidates)| {
            let at = candidates.into_iter().find(|candidate| taken.insert(candidate.node))?;
            Some(Standby { stage, at })
        })
        .collect();
    found.sort_by_key(|standby| standby.stage);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choose_route;
    use crate::testing::{NOW, Shard, model, node};

    fn route(shards: &[(u8, u32, u32)]) -> Route {
        let view =
            View::of_records(NOW, shards.iter().map(|&(n, start, end)| Shard::new(n, start, end).record()));
        let request = RouteRequest {
            model: model(3),
            n_layers: 30,
            class: None,
            max_positions: 64,
            exclude: BTreeSet::from([node(9)]),
            prefer: std::collections::BTreeMap::new(),
            standby: true,
        };
        choose_route(&view, &request).unwrap()
    }

    #[test]
    fn each_stage_has_a_node_of_its_own_outside_the_route_where_there_is_one() {
        let found = route(&[(1, 0, 15), (2, 0, 15), (3, 15, 30), (4, 15, 30), (5, 15, 30), (9, 0, 15)]);
        let stages: Vec<_> = found.standbys.iter().map(|standby| standby.stage).collect();
        assert_eq!(stages, [0, 1]);
        let mut nodes: BTreeSet<NodeId> = found.standbys.iter().map(|standby| standby.at.node).collect();
        nodes.extend(found.stages.iter().map(|stage| stage.node));
        assert_eq!(nodes.len(), 4);
        assert!(!nodes.contains(&node(9)), "it is excluded");
        for standby in &found.standbys {
            assert_eq!(standby.at.span, found.stages[standby.stage].span);
        }
    }

    #[test]
    fn a_stage_that_nobody_else_holds_goes_without() {
        assert_eq!(route(&[(1, 0, 15), (3, 15, 30), (4, 15, 30)]).standbys.len(), 1);
        assert_eq!(route(&[(1, 0, 15), (3, 15, 30)]).standbys, []);
    }
}
