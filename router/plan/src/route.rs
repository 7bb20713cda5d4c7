//! The choice of a route: one model, one class, parts of spans that tile the model, cheapest first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proto::session::{Plan, PlanStage};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId, NodeId};

use crate::cost::anew_us;
use crate::coverage::{Coverage, Gaps};
use crate::graph::Graph;
use crate::standby::{Standby, choose_standbys};
use crate::view::{NodeView, View};

/// What a route is wanted for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteRequest {
    /// The weights.
    pub model: ModelId,
    /// Layers of the model, by its manifest.
    pub n_layers: u32,
    /// The numerics class; `None` takes the class with the cheaper route. Never mixed within a route.
    pub class: Option<NumericsClass>,
    /// Positions that every stage must reserve.
    pub max_positions: u32,
    /// Nodes that must not take part.
    pub exclude: BTreeSet<NodeId>,
    /// Nodes that hold rows of the session already, for these of their layers: others are taken, or other layers of
    /// these, only where these give no route, or a much slower one.
    pub prefer: BTreeMap<NodeId, LayerSpan>,
    /// Other nodes are wanted that stand by for the stages.
    pub standby: bool,
}

/// One stage of a chosen route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteStage {
    /// Who computes it.
    pub node: NodeId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Which layers.
    pub span: LayerSpan,
}

/// A plan for a pipeline before it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The weights.
    pub model: ModelId,
    /// How every stage computes.
    pub class: NumericsClass,
    /// Layers of the model.
    pub n_layers: u32,
    /// The stages in order.
    pub stages: Vec<RouteStage>,
    /// Expected time of one token through all stages, microseconds.
    pub expected_us: u64,
    /// Who stands by for which of them, if that was asked for and there are nodes for it.
    pub standbys: Vec<Standby>,
}

impl Route {
    /// As it is sent to the stages.
    pub fn to_plan(&self) -> Plan {
        let stages =
            self.stages.iter().map(|s| PlanStage { node: s.node, addr: s.addr, span: s.span }).collect();
        Plan { model: self.model, class: self.class, n_layers: self.n_layers, stages }
    }
}

/// Why there is no route.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RouteError {
    /// No usable node offers the model in this class.
    #[error(
        "no usable node offers model {} in class {class}: layers 0..{n_layers} are held by nobody{}",
        .model.short(), others(.other_classes)
    )]
    Nobody {
        /// The weights.
        model: ModelId,
        /// The class asked for, or one in which nodes offer it that can't be used.
        class: NumericsClass,
        /// Layers of the model.
        n_layers: u32,
        /// Classes that usable nodes do offer.
        other_classes: Vec<NumericsClass>,
    },
    /// Layers are missing.
    #[error("no route for model {} in class {class}: {gaps}", .model.short())]
    Gap {
        /// The weights.
        model: ModelId,
        /// The class tried.
        class: NumericsClass,
        /// Which layers.
        gaps: Gaps,
    },
}

fn others(classes: &[NumericsClass]) -> String {
    let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
    if names.is_empty() { String::new() } else { format!("; it is offered in class {}", names.join(", ")) }
}

/// The cheapest route, or why there is none. Deterministic: equal views and requests give equal routes.
pub fn choose_route(view: &View, request: &RouteRequest) -> Result<Route, RouteError> {
    let classes = match request.class {
        Some(class) => vec![class],
        None => NumericsClass::ALL.to_vec(),
    };
    let mut best: Option<Route> = None;
    for &class in &classes {
        if let Some(route) = cheapest(view, request, class)
            && best.as_ref().is_none_or(|best| route.expected_us < best.expected_us)
        {
            best = Some(route);
        }
    }
    let mut best = best.ok_or_else(|| no_route(view, request, &classes))?;
    if request.standby {
        best.standbys = choose_standbys(view, request, &best);
    }
    Ok(best)
}

fn cheapest(view: &View, request: &RouteRequest, class: NumericsClass) -> Option<Route> {
    let graph = Graph::new(request.n_layers, usable(view, request, class), &request.prefer);
    let (parts, cost) = graph.best()?;
    let anew: u64 = parts.iter().map(|(node, part)| anew_us(node.node(), *part, &request.prefer)).sum();
    let expected_us = cost.saturating_sub(anew);
    let stages = parts
        .into_iter()
        .map(|(node, span)| Some(RouteStage { node: node.node(), addr: address(node)?, span }))
        .collect::<Option<_>>()?;
    Some(Route {
        model: request.model,
        class,
        n_layers: request.n_layers,
        stages,
        expected_us,
        standbys: Vec::new(),
    })
}

/// Why no class has a route: told of the class that comes closest.
fn no_route(view: &View, request: &RouteRequest, classes: &[NumericsClass]) -> RouteError {
    let spans_of = |class| -> Vec<LayerSpan> {
        usable(view, request, class).filter_map(|node| Some(node.offer()?.span)).collect()
    };
    let covered = |class: &NumericsClass| Coverage::of(request.n_layers, spans_of(*class)).held();
    // `max_by_key` takes the last of equals; reversed, the preferred class comes last.
    let class = classes.iter().rev().copied().max_by_key(covered).unwrap_or(NumericsClass::Bf16);
    let spans = spans_of(class);
    if spans.is_empty() {
        let other_classes =
            NumericsClass::ALL.into_iter().filter(|&other| !spans_of(other).is_empty()).collect();
        // A class that nobody has says nothing of those who are gone.
        let offered = |class: &NumericsClass| {
            let wanted = (request.model, *class);
            view.nodes().filter_map(NodeView::offer).any(|offer| (offer.model, offer.class) == wanted)
        };
        let class = classes.iter().copied().find(offered).unwrap_or(class);
        return RouteError::Nobody { model: request.model, class, n_layers: request.n_layers, other_classes };
    }
    // Without a gap there is a route: spans may be cut anywhere.
    let gaps = Coverage::of(request.n_layers, spans).gaps();
    RouteError::Gap { model: request.model, class, gaps }
}

/// The nodes that may take part, ordered by id.
pub(crate) fn usable<'a>(
    view: &'a View,
    request: &'a RouteRequest,
    class: NumericsClass,
) -> impl Iterator<Item = &'a NodeView> {
    view.nodes().filter(move |node| crate::explain::left_out(view, request, class, node).is_none())
}

/// The nodes that may take part in some class that the request takes.
pub(crate) fn usable_nodes(view: &View, request: &RouteRequest) -> Vec<NodeId> {
    let usable = |class| usable(view, request, class).map(NodeView::node);
    match request.class {
        Some(class) => usable(class).collect(),
        None => NumericsClass::ALL.into_iter().flat_map(usable).collect(),
    }
}

/// Where the node is dialled: the first address it announces.
pub(crate) fn address(node: &NodeView) -> Option<SocketAddr> {
    node.record().addresses.first().copied()
}

#[cfg(test)]
mod tests;
