//! An answer that goes on over another route when its pipeline breaks.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use proto::NodeId;
use proto::session::PlanStage;
use router_plan::{Route, RouteRequest, RouteStage, Standby, View};
use tokio::time::Instant;

use super::avoid::Avoided;
use crate::driver::{Driver, Session};
use crate::session::{SessionError, SessionTerms, StandbyStage};

/// Finds other routes for one answer.
pub trait Resume: fmt::Debug + Send {
    /// Goes on over a route without the stage that is to blame for `lost`. `came` are all tokens of the answer so far, in
    /// order, as its reader has them: they are forced, never chosen again.
    fn resume(&mut self, lost: &SessionError, came: &[u32]) -> Resuming;

    /// Goes on over a route without a node that is about to leave, if one is and there is such a route now; and what is
    /// to be said of it. Asked before each token, so it must be quick where nothing has changed.
    fn hand_over(&mut self, came: &[u32]) -> Option<(SessionError, Resumed)> {
        let _ = came;
        None
    }
}

/// The way to another route.
pub type Resuming = Pin<Box<dyn Future<Output = Result<Resumed, String>> + Send>>;

/// An answer that goes on.
#[derive(Debug)]
pub struct Resumed {
    /// Its next generation.
    pub session: Session,
    /// Over this route.
    pub route: Route,
    /// A node that stood by takes part in it.
    pub taken_over: bool,
}

/// The generations of one answer.
#[derive(Debug)]
pub(crate) struct Generations {
    terms: Arc<SessionTerms>,
    /// When the latest one was made.
    since: Instant,
    /// Tokens that came before the latest generation.
    forced: usize,
}

impl Generations {
    /// Of a session with these terms.
    pub(crate) fn new(terms: Arc<SessionTerms>) -> Self {
        Self { terms, since: Instant::now(), forced: 0 }
    }

    /// How errors of the latest one name a node.
    pub(crate) fn leaving(&self, node: NodeId) -> Option<SessionError> {
        let stage = self.terms.stages().iter().position(|stage| stage.node == node)?;
        Some(SessionError::Leaving { stage: self.terms.label(stage) })
    }

    /// Whether a node that stands by takes part in a route.
    pub(crate) fn takes_over(&self, route: &Route) -> bool {
        self.terms
            .standbys
            .iter()
            .any(|standby| route.stages.iter().any(|stage| stage.node == standby.at.node))
    }

    /// The terms of the next one over `route`, behind all tokens that `came`.
    pub(crate) fn next(&mut self, route: &Route, came: &[u32]) -> Option<Arc<SessionTerms>> {
        let mut next = self.terms.resumed(route.to_plan(), standbys(route), came.get(self.forced..)?)?;
        let now = Instant::now();
        // The time limit is the whole answer's.
        next.limits.total = next.limits.total.map(|total| total.saturating_sub(now - self.since));
        *self = Self { terms: Arc::new(next), since: now, forced: came.len() };
        Some(Arc::clone(&self.terms))
    }
}

/// Over what a view knows, for one answer by itself.
#[derive(Debug)]
pub(super) struct OverView {
    pub(super) driver: Driver,
    pub(super) view: View,
    pub(super) wanted: RouteRequest,
    pub(super) avoided: Avoided,
    /// Its present one.
    pub(super) route: Route,
    pub(super) generations: Generations,
}

impl OverView {
    fn go_on(&mut self, node: NodeId, lost: &SessionError, came: &[u32]) -> Result<Resumed, String> {
        // In the class that it began in, by the nodes that hold its rows if they can.
        self.wanted.class = Some(self.route.class);
        self.wanted.prefer.extend(self.route.stages.iter().map(|stage| (stage.node, stage.span)));
        self.wanted.prefer.remove(&node);
        // Whoever stands by for it holds its rows.
        let place = self.route.stages.iter().position(|stage| stage.node == node);
        let standbys = self.route.standbys.iter().filter(|standby| Some(standby.stage) == place);
        self.wanted.prefer.extend(standbys.map(|standby| (standby.at.node, standby.at.span)));
        let route = self.avoided.without((node, lost), (&self.view, &self.wanted), Instant::now())?;
        self.route = route.clone();
        let taken_over = self.generations.takes_over(&route);
        let terms = self.generations.next(&route, came).ok_or(COMPLETE)?;
        let session = self.driver.start_next(terms, ()).map_err(|error| error.to_string())?;
        Ok(Resumed { session, route, taken_over })
    }
}

impl Resume for OverView {
    fn resume(&mut self, lost: &SessionError, came: &[u32]) -> Resuming {
        let resumed = match lost.avoid() {
            Some(node) => self.go_on(node, lost, came),
            None => Err("no node is to blame".into()),
        };
        Box::pin(std::future::ready(resumed))
    }
}

/// As a session is told of them.
pub(crate) fn standbys(route: &Route) -> Vec<StandbyStage> {
    let told = |&Standby { stage, at }: &Standby| {
        let RouteStage { node, addr, span } = at;
        StandbyStage { stage, at: PlanStage { node, addr, span } }
    };
    route.standbys.iter().map(told).collect()
}

/// A pipeline can't break after the last token.
pub(crate) const COMPLETE: &str = "no token is left to generate";
