//! Shortest paths over (node, layer): a node takes part with any run of layers of those that it holds.
//!
//! Runs begin and end at *cuts*, the layers where somebody's span begins or ends: cutting elsewhere would only make
//! shorter stages of the same nodes. A path goes through the cuts in ascending order, which is a topological order.

use std::collections::BTreeMap;

use proto::{LayerSpan, NodeId};

use crate::cost::{anew_us, compute_us, hop_us};
use crate::view::NodeView;

/// Cost of a path, and its number of stages to prefer the shorter of two equal ones.
pub(crate) type Cost = (u64, u32);

/// A way that ends with a candidate's layers up to a cut.
#[derive(Clone, Copy, Debug)]
struct Way {
    cost: Cost,
    /// The cut where the candidate begins.
    enters: usize,
    /// The candidate before it.
    before: Option<usize>,
}

/// What it costs until a candidate begins, and who comes before it.
type Entry = (Cost, Option<usize>);

/// The best ways to and from each candidate at each cut.
#[derive(Debug)]
pub(crate) struct Graph<'a> {
    prefer: &'a BTreeMap<NodeId, LayerSpan>,
    /// Ordered by (span, node), so that ties fall to the smaller id.
    candidates: Vec<&'a NodeView>,
    /// In ascending order, from layer 0 to the last one.
    cuts: Vec<u32>,
    /// By candidate and cut: the cheapest way from layer 0 that ends there with the candidate.
    until: Vec<Vec<Option<Way>>>,
    /// By candidate and cut: what it costs until the candidate begins there, and who comes before it.
    entering: Vec<Vec<Option<Entry>>>,
}

/// By candidate and cut: what the cheapest way from there to the last layer costs that begins with the candidate.
pub(crate) type WaysOn = Vec<Vec<Option<u64>>>;

impl<'a> Graph<'a> {
    /// Every candidate must have an offer; those whose span does not lie within `n_layers` are left out.
    pub(crate) fn new(
        n_layers: u32,
        candidates: impl IntoIterator<Item = &'a NodeView>,
        prefer: &'a BTreeMap<NodeId, LayerSpan>,
    ) -> Self {
        let mut candidates: Vec<_> = candidates
            .into_iter()
            .filter(|node| node.offer().is_some_and(|o| o.span.end() <= n_layers))
            .collect();
        candidates.sort_by_key(|node| (node.offer().map(|offer| offer.span), node.node()));
        let cuts = cuts(n_layers, &candidates, prefer);
        let until = vec![vec![None; cuts.len()]; candidates.len()];
        let entering = vec![vec![None; cuts.len()]; candidates.len()];
        let mut graph = Self { prefer, candidates, cuts, until, entering };
        for cut in 0..graph.cuts.len() {
            graph.end_at(cut);
            for at in 0..graph.candidates.len() {
                graph.entering[at][cut] = graph.entering_way(at, cut);
            }
        }
        graph
    }

    /// The cheapest route's candidates in order, each with its layers, and what it costs.
    pub(crate) fn best(&self) -> Option<(Vec<(&'a NodeView, LayerSpan)>, u64)> {
        let last = self.cuts.len() - 1;
        let ends = (0..self.candidates.len()).filter_map(|at| Some((at, self.until[at][last]?)));
        let (mut at, _) = ends.min_by_key(|&(at, way)| (way.cost, at))?;
        let (mut cut, mut route) = (last, Vec::new());
        while let Some(way) = self.until[at][cut] {
            route.push((at, way.enters, cut));
            let Some(before) = way.before else { break };
            (at, cut) = (before, way.enters);
        }
        route.reverse();
        let route = once_each(route);
        let hops =
            route.windows(2).map(|pair| hop_us(self.candidates[pair[0].0], self.candidates[pair[1].0]));
        let own = route.iter().map(|&(at, from, to)| self.own(at, from, to));
        let cost = hops.sum::<u64>() + own.sum::<Option<u64>>()?;
        let stages = route.iter().map(|&(at, from, to)| Some((self.candidates[at], self.span(from, to)?)));
        Some((stages.collect::<Option<_>>()?, cost))
    }

    /// Cost of the cheapest route through this candidate, the candidate's reach to both ends otherwise.
    pub(crate) fn through(&self, node: &NodeView, after: &WaysOn) -> Result<u64, Reach> {
        let Some(at) = self.candidates.iter().position(|known| known.node() == node.node()) else {
            return Err(Reach { start: false, end: false });
        };
        let (mut best, mut reach) = (None::<u64>, Reach { start: false, end: false });
        for from in 0..self.cuts.len() {
            let Some((before, _)) = self.entering(at, from) else { continue };
            for to in from + 1..self.cuts.len() {
                let Some(own) = self.own(at, from, to) else { continue };
                reach.start = true;
                let Some(rest) = self.leaving(at, to, after) else { continue };
                let cost = before + own + rest;
                best = Some(best.map_or(cost, |best| best.min(cost)));
            }
        }
        let ends = |to: usize| self.leaving(at, to, after).is_some() && self.holds_before(at, to);
        reach.end = (1..self.cuts.len()).any(ends);
        best.ok_or(reach)
    }

    /// The ways that end at `cut`; those at all smaller cuts are known.
    fn end_at(&mut self, cut: usize) {
        for at in 0..self.candidates.len() {
            let mut best: Option<Way> = None;
            for enters in 0..cut {
                let Some(own) = self.own(at, enters, cut) else { continue };
                let Some(((cost, stages), before)) = self.entering[at][enters] else { continue };
                let way = Way { cost: (cost + own, stages + 1), enters, before };
                if best.is_none_or(|best| way.cost < best.cost) {
                    best = Some(way);
                }
            }
            self.until[at][cut] = best;
        }
    }

    /// What it costs until the candidate begins at a cut, and who comes before it.
    fn entering_way(&self, at: usize, cut: usize) -> Option<Entry> {
        if cut == 0 {
            return Some(((0, 0), None));
        }
        let before = (0..self.candidates.len()).filter(|&before| before != at);
        let ways = before.filter_map(|before| {
            let (cost, stages) = self.until[before][cut]?.cost;
            let hop = hop_us(self.candidates[before], self.candidates[at]);
            Some(((cost + hop, stages), Some(before)))
        });
        ways.min()
    }

    fn entering(&self, at: usize, cut: usize) -> Option<(u64, u32)> {
        self.entering[at][cut].map(|(cost, _)| cost)
    }

    /// What it costs after a candidate that ends at a cut.
    fn leaving(&self, at: usize, cut: usize, after: &[Vec<Option<u64>>]) -> Option<u64> {
        if cut + 1 == self.cuts.len() {
            return Some(0);
        }
        let next = (0..self.candidates.len()).filter(|&next| next != at);
        let ways = next
            .filter_map(|next| Some(after[next][cut]? + hop_us(self.candidates[at], self.candidates[next])));
        ways.min()
    }

    /// For [`Self::through`].
    pub(crate) fn ways_on(&self) -> Vec<Vec<Option<u64>>> {
        let mut after = vec![vec![None; self.cuts.len()]; self.candidates.len()];
        for cut in (0..self.cuts.len() - 1).rev() {
            for at in 0..self.candidates.len() {
                let ways = (cut + 1..self.cuts.len())
                    .filter_map(|to| Some(self.own(at, cut, to)? + self.leaving(at, to, &after)?));
                let best = ways.min();
                after[at][cut] = best;
            }
        }
        after
    }

    /// What a candidate takes for the layers between two cuts; `None` if it does not hold them.
    fn own(&self, at: usize, from: usize, to: usize) -> Option<u64> {
        let node = self.candidates[at];
        let span = node.offer()?.span;
        let part = self.span(from, to).filter(|&part| span.holds(part))?;
        let time = compute_us(node).saturating_mul(u64::from(part.len())) / u64::from(span.len().max(1));
        Some(time + anew_us(node.node(), part, self.prefer))
    }

    fn holds_before(&self, at: usize, cut: usize) -> bool {
        (0..cut).any(|from| self.own(at, from, cut).is_some())
    }

    fn span(&self, from: usize, to: usize) -> Option<LayerSpan> {
        LayerSpan::new(self.cuts[from], self.cuts[to]).ok()
    }
}

/// A node takes part once: where a faster one came between two runs of its layers, it computes that one's as well.
fn once_each(route: Vec<(usize, usize, usize)>) -> Vec<(usize, usize, usize)> {
    let mut once: Vec<(usize, usize, usize)> = Vec::new();
    for (at, from, to) in route {
        match once.iter().position(|&(known, ..)| known == at) {
            Some(place) => {
                once.truncate(place + 1);
                once[place].2 = to;
            }
            None => once.push((at, from, to)),
        }
    }
    once
}

/// Where routes may be cut: at both ends of the model, where most spans begin or end, and where the fewest nodes that
/// hold all layers between them meet, so that a route is found whenever no layer is missing.
fn cuts(n_layers: u32, candidates: &[&NodeView], prefer: &BTreeMap<NodeId, LayerSpan>) -> Vec<u32> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for offer in candidates.iter().filter_map(|node| node.offer()) {
        *counts.entry(offer.span.start()).or_default() += 1;
        *counts.entry(offer.span.end()).or_default() += 1;
    }
    counts.remove(&0);
    counts.remove(&n_layers);
    let mut common: Vec<(usize, u32)> = counts.into_iter().map(|(cut, count)| (count, cut)).collect();
    common.sort_by_key(|&(count, cut)| (std::cmp::Reverse(count), cut));
    let between = common.into_iter().take(MOST_CUTS).map(|(_, cut)| cut);
    let mut cuts: Vec<u32> = between.chain([0, n_layers]).collect();
    // Where a session's present route is cut: it holds rows for these parts.
    cuts.extend(prefer.values().flat_map(|part| [part.start(), part.end()]).filter(|&cut| cut < n_layers));
    let spans = || candidates.iter().filter_map(|node| Some(node.offer()?.span));
    let mut reached = 0;
    while let Some(end) = spans().filter(|span| span.start() <= reached).map(LayerSpan::end).max() {
        if end <= reached || end >= n_layers {
            break;
        }
        cuts.push(end);
        reached = end;
    }
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Cuts between the model's ends. Whoever announces spans of its own making adds cuts, and a search takes time with
/// their square, for every node.
const MOST_CUTS: usize = 30;

/// Which ends of the model a candidate's span can be joined to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reach {
    /// Other spans lead from layer 0 to its start.
    pub(crate) start: bool,
    /// Other spans lead from its end to the last layer.
    pub(crate) end: bool,
}
