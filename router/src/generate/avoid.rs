//! The nodes that one answer does without, and its routes without them. Pure: it asks nobody, and the time is an
//! argument.

use std::time::Duration;

use proto::NodeId;
use router_plan::{Route, RouteError, RouteRequest, View, choose_route};
use tokio::time::Instant;

use crate::session::SessionError;

/// Nodes that were lost or suspected. Bounded by the routes that an answer may try.
#[derive(Clone, Debug, Default)]
pub(super) struct Avoided(Vec<Avoiding>);

#[derive(Clone, Copy, Debug)]
struct Avoiding {
    node: NodeId,
    since: Instant,
    /// It and another one could not reach each other: either may be well.
    suspect: bool,
}

impl Avoided {
    /// A route that does without who is to blame for `lost`.
    ///
    /// Of two nodes that can't reach each other one is cut off, and nobody can tell which: without both if that gives a
    /// route, else without the one that is not reached, else without the other. One that does not report may only be
    /// slow: with it once more where nobody else has its layers. So are suspects of before, and those that were lost some
    /// time ago, who may be back.
    pub(super) fn without(
        &mut self,
        (node, lost): (NodeId, &SessionError),
        (view, wanted): (&View, &RouteRequest),
        now: Instant,
    ) -> Result<Route, String> {
        let sets = match (lost, lost.also()) {
            (_, Some(other)) => vec![vec![node, other], vec![node], vec![other]],
            (SessionError::Stalled { .. }, None) => vec![vec![node], Vec::new()],
            _ => vec![vec![node]],
        };
        let patient = view.with_late();
        let mut why = None;
        for again in [false, true] {
            let may_be_well = |at: &Avoiding| at.suspect || now - at.since >= BACK_AFTER;
            let avoided: Vec<_> = self.0.iter().copied().filter(|at| !(again && may_be_well(at))).collect();
            for set in &sets {
                let mut wanted = wanted.clone();
                wanted.exclude.extend(avoided.iter().map(|at| at.node).chain(set.iter().copied()));
                let chosen = choose_route(view, &wanted)
                    .or_else(|error: RouteError| choose_route(&patient, &wanted).map_err(|_| error));
                match chosen {
                    Ok(route) => {
                        self.0 = avoided;
                        let suspect = lost.also().is_some();
                        self.0.extend(set.iter().map(|&node| Avoiding { node, since: now, suspect }));
                        return Ok(route);
                    }
                    Err(error) => drop(why.get_or_insert_with(|| error.to_string())),
                }
            }
        }
        Err(why.unwrap_or_default())
    }
}

/// A node that was lost is tried again after this long where nobody else has its layers: it may have been cut off, or
/// have stood still. With nobody left the answer has ended before.
const BACK_AFTER: Duration = Duration::from_millis(1_500);

#[cfg(test)]
mod tests;
