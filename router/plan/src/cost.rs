//! What a stage and a hop are expected to cost per token, in microseconds, where nothing or something is known.

use std::collections::BTreeMap;

use proto::{LayerSpan, NodeId};

use crate::view::NodeView;

/// One decode step of one layer where no step time is known: about a CPU's time for a 1B model's layer. Only its
/// relation to measured times matters.
const ASSUMED_LAYER_US: u64 = 1_000;
/// One hop whose round-trip time is unknown: two machines of one continent.
const ASSUMED_HOP_US: u64 = 20_000;
/// One hop on one machine, waking two threads included.
const LOCAL_HOP_US: u64 = 150;
/// Each open session makes a step this much longer, in parts of [`LOAD_PARTS`]: its row shares the step. A guess
/// until placement has measurements of its own.
const LOAD_PER_SESSION: u64 = 1;
const LOAD_PARTS: u64 = 8;

/// Expected time of one decode step of the node's whole span.
pub(crate) fn compute_us(node: &NodeView) -> u64 {
    let layers = node.offer().map_or(0, |offer| u64::from(offer.span.len()));
    let load = node.measured.load;
    let step = load.and_then(|load| load.step_us).map_or(layers * ASSUMED_LAYER_US, u64::from);
    let sessions = load.map_or(0, |load| u64::from(load.sessions));
    step + step.saturating_mul(sessions * LOAD_PER_SESSION) / LOAD_PARTS
}

/// What computing a session's rows anew counts as, once for each node that would have to.
const ANEW_US: u64 = 1_000_000;

/// The price of a node that holds no rows of a session for these layers, where others do.
pub(crate) fn anew_us(node: NodeId, part: LayerSpan, prefer: &BTreeMap<NodeId, LayerSpan>) -> u64 {
    if prefer.is_empty() || prefer.get(&node) == Some(&part) { 0 } else { ANEW_US }
}

/// Expected one-way time from one node to another. Without a measurement between them: half the mean of what the
/// router sees of each.
pub(crate) fn hop_us(from: &NodeView, to: &NodeView) -> u64 {
    let machine = |node: &NodeView| node.record().addresses.first().map(std::net::SocketAddr::ip);
    if machine(from).is_some() && machine(from) == machine(to) {
        return LOCAL_HOP_US;
    }
    match (from.measured.rtt_us, to.measured.rtt_us) {
        (Some(a), Some(b)) => ((u64::from(a) + u64::from(b)) / 4).max(LOCAL_HOP_US),
        _ => ASSUMED_HOP_US,
    }
}
