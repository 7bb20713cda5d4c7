//! Why each node was taken into a route or left out of it.

use std::fmt;

use proto::tensor::NumericsClass;
use proto::{LayerSpan, NodeId};

use crate::coverage::{Coverage, Gaps};
use crate::graph::{Graph, Reach, WaysOn};
use crate::route::{Route, RouteError, RouteRequest, address, choose_route, usable};
use crate::view::{NodeView, View};

/// What became of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is this stage of the route.
    Taken {
        /// Counted from 0.
        stage: usize,
    },
    /// It offers no shard.
    NoShard,
    /// It holds other weights.
    OtherModel,
    /// It computes in another class.
    OtherClass {
        /// The node's class.
        class: NumericsClass,
    },
    /// It announces another number of layers than the manifest says.
    WrongLayerCount {
        /// What it announces.
        announced: u32,
    },
    /// Its lease has run out.
    Expired {
        /// Since how many seconds.
        ago_s: u64,
    },
    /// It could not be reached, or refused.
    Unreachable {
        /// Why.
        why: String,
    },
    /// It announces no address.
    NoAddress,
    /// It is leaving.
    Draining,
    /// Not enough KV is free.
    NoRoom {
        /// Positions free.
        free: u64,
        /// Positions wanted.
        wanted: u32,
    },
    /// The request excludes it.
    Excluded,
    /// Its span fits no route: layers before or behind it are held by nobody.
    DoesNotMeet {
        /// The layer where no way leads to it from the first layer.
        no_upstream_to: Option<u32>,
        /// The layer from which no way leads to the last layer.
        no_downstream_from: Option<u32>,
    },
    /// The best route through it costs more.
    Slower {
        /// By how many microseconds a token.
        by_us: u64,
    },
    /// A route through it costs as much; the tie fell to another node.
    Tie,
}

impl Verdict {
    /// A word for `--json`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Taken { .. } => "taken",
            Self::NoShard => "no_shard",
            Self::OtherModel => "other_model",
            Self::OtherClass { .. } => "other_class",
            Self::WrongLayerCount { .. } => "wrong_layer_count",
            Self::Expired { .. } => "expired",
            Self::Unreachable { .. } => "unreachable",
            Self::NoAddress => "no_address",
            Self::Draining => "draining",
            Self::NoRoom { .. } => "no_room",
            Self::Excluded => "excluded",
            Self::DoesNotMeet { .. } => "does_not_meet",
            Self::Slower { .. } => "slower",
            Self::Tie => "tie",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { stage } => write!(f, "taken as stage {stage}"),
            Self::NoShard => f.write_str("offers no shard"),
            Self::OtherModel => f.write_str("holds another model"),
            Self::OtherClass { class } => write!(f, "computes in class {class}"),
            Self::WrongLayerCount { announced } => {
                write!(f, "announces {announced} layers, which is not what the manifest says")
            }
            Self::Expired { ago_s } => write!(f, "its record expired {ago_s} s ago"),
            Self::Unreachable { why } => write!(f, "can't be used: {why}"),
            Self::NoAddress => f.write_str("announces no address"),
            Self::Draining => f.write_str("is draining"),
            Self::NoRoom { free, wanted } => {
                write!(f, "has {free} positions of KV free, {wanted} are needed")
            }
            Self::Excluded => f.write_str("excluded by the request"),
            Self::DoesNotMeet { no_upstream_to: Some(up), no_downstream_from: Some(down) } => {
                write!(f, "no spans lead up to layer {up} nor on from layer {down}")
            }
            Self::DoesNotMeet { no_upstream_to: Some(layer), .. } => {
                write!(f, "no spans lead up to layer {layer}")
            }
            Self::DoesNotMeet { no_downstream_from: Some(layer), .. } => {
                write!(f, "no spans lead on from layer {layer}")
            }
            Self::DoesNotMeet { .. } => f.write_str("its span fits no route"),
            Self::Slower { by_us } => write!(f, "slower by {by_us} us a token"),
            Self::Tie => f.write_str("as good as another node; the smaller id was taken"),
        }
    }
}

/// One node and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeVerdict {
    /// Who.
    pub node: NodeId,
    /// Which layers it holds.
    pub span: Option<LayerSpan>,
    /// In which class.
    pub class: Option<NumericsClass>,
    /// What became of it.
    pub verdict: Verdict,
    /// It stands by for this stage of the route if the request wants that.
    pub stands_by: Option<usize>,
}

/// A route decision with its reasons.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The decision.
    pub route: Result<Route, RouteError>,
    /// The class that the verdicts and gaps are about.
    pub class: NumericsClass,
    /// Layers that no usable node of this class holds.
    pub gaps: Gaps,
    /// Every node of the view, ordered by id.
    pub nodes: Vec<NodeVerdict>,
}

/// Decides like [`choose_route`] and gives the reason for each node.
pub fn explain(view: &View, request: &RouteRequest) -> Explanation {
    let route = choose_route(view, request);
    let class = match &route {
        Ok(route) => route.class,
        Err(RouteError::Nobody { class, .. } | RouteError::Gap { class, .. }) => *class,
    };
    let spans = usable(view, request, class).filter_map(|node| Some(node.offer()?.span));
    let gaps = Coverage::of(request.n_layers, spans).gaps();
    let graph = Graph::new(request.n_layers, usable(view, request, class), &request.prefer);
    let after = graph.ways_on();
    let standbys = route.as_ref().map_or(&[][..], |route| &route.standbys);
    let stands_by =
        |node| standbys.iter().find(|standby| standby.at.node == node).map(|standby| standby.stage);
    let nodes = view
        .nodes()
        .map(|node| NodeVerdict {
            stands_by: stands_by(node.node()),
            node: node.node(),
            span: node.offer().map(|offer| offer.span),
            class: node.offer().map(|offer| offer.class),
            verdict: left_out(view, request, class, node)
                .unwrap_or_else(|| compare((&graph, &after), route.as_ref().ok(), node)),
        })
        .collect();
    Explanation { route, class, gaps, nodes }
}

/// Why the node can't take part in any route of this class; `None` if it can.
pub(crate) fn left_out(
    view: &View,
    request: &RouteRequest,
    class: NumericsClass,
    node: &NodeView,
) -> Option<Verdict> {
    let Some(offer) = node.offer() else { return Some(Verdict::NoShard) };
    if offer.model != request.model {
        return Some(Verdict::OtherModel);
    }
    if offer.class != class {
        return Some(Verdict::OtherClass { class: offer.class });
    }
    if offer.n_layers != request.n_layers {
        return Some(Verdict::WrongLayerCount { announced: offer.n_layers });
    }
    if view.is_expired(node) {
        return Some(Verdict::Expired { ago_s: view.unix_s() - node.record().expires_unix_s() });
    }
    if let Some(why) = &node.measured.unreachable {
        return Some(Verdict::Unreachable { why: why.clone() });
    }
    if address(node).is_none() {
        return Some(Verdict::NoAddress);
    }
    if request.exclude.contains(&node.node()) {
        return Some(Verdict::Excluded);
    }
    let load = node.measured.load;
    if load.is_some_and(|load| load.draining) {
        return Some(Verdict::Draining);
    }
    let free = load.map_or(offer.kv_capacity, |load| load.kv_free);
    (free < u64::from(request.max_positions))
        .then_some(Verdict::NoRoom { free, wanted: request.max_positions })
}

fn compare((graph, after): (&Graph<'_>, &WaysOn), route: Option<&Route>, node: &NodeView) -> Verdict {
    let taken = route.and_then(|route| route.stages.iter().position(|stage| stage.node == node.node()));
    if let Some(stage) = taken {
        return Verdict::Taken { stage };
    }
    match (graph.through(node, after), route) {
        (Ok(cost), Some(route)) if cost > route.expected_us => {
            Verdict::Slower { by_us: cost - route.expected_us }
        }
        (Ok(_), _) => Verdict::Tie,
        (Err(Reach { start, end }), _) => {
            let span = node.offer().map(|offer| offer.span);
            Verdict::DoesNotMeet {
                no_upstream_to: span.filter(|_| !start).map(LayerSpan::start),
                no_downstream_from: span.filter(|_| !end).map(LayerSpan::end),
            }
        }
    }
}
