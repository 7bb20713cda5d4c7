//! Shortest paths over (node, layer): the usable spans as a graph whose edges join a span's end to a span's start.
//!
//! Every node holds exactly one span and takes part with the whole of it, so a node's place in the model is fixed and
//! the graph has one vertex per node. Spans are taken in order of their start, which is a topological order.

use std::collections::BTreeSet;

use proto::NodeId;

use crate::cost::{anew_us, compute_us, hop_us};
use crate::view::NodeView;

/// Cost of a path, and its number of stages to prefer the shorter of two equal ones.
pub(crate) type Cost = (u64, u32);

/// The best ways to and from each candidate.
#[derive(Debug)]
pub(crate) struct Graph<'a> {
    n_layers: u32,
    prefer: &'a BTreeSet<NodeId>,
    /// Ordered by (span, node), so that ties fall to the smaller id.
    candidates: Vec<&'a NodeView>,
    /// Cheapest way from layer 0 up to and including the candidate, and the candidate before it.
    from_start: Vec<Option<(Cost, Option<usize>)>>,
    /// Cheapest way from the candidate (included) to the last layer.
    to_end: Vec<Option<Cost>>,
}

impl<'a> Graph<'a> {
    /// Every candidate must have an offer whose span lies within `n_layers`.
    pub(crate) fn new(
        n_layers: u32,
        candidates: impl IntoIterator<Item = &'a NodeView>,
        prefer: &'a BTreeSet<NodeId>,
    ) -> Self {
        let mut candidates: Vec<_> = candidates
            .into_iter()
            .filter(|node| node.offer().is_some_and(|o| o.span.end() <= n_layers))
            .collect();
        candidates.sort_by_key(|node| (node.offer().map(|offer| offer.span), node.node()));
        let count = candidates.len();
        let mut graph =
            Self { n_layers, prefer, candidates, from_start: vec![None; count], to_end: vec![None; count] };
        graph.forward();
        graph.backward();
        graph
    }

    /// The cheapest route's candidates in order.
    pub(crate) fn best(&self) -> Option<Vec<&'a NodeView>> {
        let (mut at, _) = self
            .from_start
            .iter()
            .enumerate()
            .filter(|&(index, _)| self.end(index) == self.n_layers)
            .filter_map(|(index, way)| way.map(|(cost, _)| (index, cost)))
            .min_by_key(|&(index, cost)| (cost, index))?;
        let mut route = vec![self.candidates[at]];
        while let Some((_, Some(before))) = self.from_start[at] {
            at = before;
            route.push(self.candidates[at]);
        }
        route.reverse();
        Some(route)
    }

    /// Cost of the cheapest route through this candidate, the candidate's reach to both ends otherwise.
    pub(crate) fn through(&self, node: &NodeView) -> Result<u64, Reach> {
        let Some(at) = self.candidates.iter().position(|known| known.node() == node.node()) else {
            return Err(Reach { start: false, end: false });
        };
        match (self.from_start[at], self.to_end[at]) {
            (Some(((before, _), _)), Some((after, _))) => Ok(before + after - self.own(at)),
            (before, after) => Err(Reach { start: before.is_some(), end: after.is_some() }),
        }
    }

    fn forward(&mut self) {
        for at in 0..self.candidates.len() {
            let own = self.own(at);
            self.from_start[at] = if self.start(at) == 0 {
                Some(((own, 1), None))
            } else {
                (0..at)
                    .filter(|&before| self.end(before) == self.start(at))
                    .filter_map(|before| {
                        let ((cost, stages), _) = self.from_start[before]?;
                        let hop = hop_us(self.candidates[before], self.candidates[at]);
                        Some(((cost + hop + own, stages + 1), Some(before)))
                    })
                    .min_by_key(|&(cost, before)| (cost, before))
            };
        }
    }

    fn backward(&mut self) {
        for at in (0..self.candidates.len()).rev() {
            let own = self.own(at);
            self.to_end[at] = if self.end(at) == self.n_layers {
                Some((own, 1))
            } else {
                (at + 1..self.candidates.len())
                    .filter(|&after| self.start(after) == self.end(at))
                    .filter_map(|after| {
                        let (cost, stages) = self.to_end[after]?;
                        Some((cost + hop_us(self.candidates[at], self.candidates[after]) + own, stages + 1))
                    })
                    .min()
            };
        }
    }

    fn own(&self, at: usize) -> u64 {
        let node = self.candidates[at];
        compute_us(node) + anew_us(node.node(), self.prefer)
    }

    fn start(&self, at: usize) -> u32 {
        self.candidates[at].offer().map_or(u32::MAX, |offer| offer.span.start())
    }

    fn end(&self, at: usize) -> u32 {
        self.candidates[at].offer().map_or(u32::MAX, |offer| offer.span.end())
    }
}

/// Which ends of the model a candidate's span can be joined to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reach {
    /// Other spans lead from layer 0 to its start.
    pub(crate) start: bool,
    /// Other spans lead from its end to the last layer.
    pub(crate) end: bool,
}
