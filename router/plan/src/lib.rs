//! Pure decisions of the router: what it believes of the swarm, which model a name means, which route to take and why.
//!
//! A [`View`] goes in, a decision comes out. No I/O, no clock, no randomness: the time is part of the view, and equal
//! views give equal decisions.

pub mod admission;
mod cost;
mod coverage;
mod explain;
mod graph;
mod measurement;
mod model_ref;
mod route;
mod standby;
#[cfg(test)]
mod testing;
mod view;

pub use coverage::{Coverage, Gaps};
pub use explain::{Explanation, NodeVerdict, Verdict, explain};
pub use measurement::{Load, Measurement};
pub use model_ref::{ModelCandidate, ModelRef, ModelRefError, ResolveError, ResolvedModel, models, resolve};
pub use route::{Route, RouteError, RouteRequest, RouteStage, choose_route};
pub use standby::Standby;
pub use view::{NodeView, View};
