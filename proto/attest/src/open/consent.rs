//! What a hop checks before it acknowledges an open: that the open says what the hop agreed to.

use proto::session::Plan;
use proto::{Generation, LayerSpan, NodeId, SessionId};

use crate::open::{ChainError, LaneId, OpenAck, RouteHop, VerifiedOpen};
use crate::{Address, Amount, Digest};

/// What a hop knows of itself and of the session when the open comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consent<'a> {
    /// The router at the other end of the connection.
    pub router: NodeId,
    /// The key that the router's binding names.
    pub router_key: Address,
    /// The session that was opened.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// The plan that it was opened with.
    pub plan: &'a Plan,
    /// Which stage of it the hop is.
    pub hop: u16,
    /// What signs its receipts.
    pub receipt_key: Address,
    /// Where it goes on, as it answered.
    pub goes_on: u32,
    /// Where it is paid, and for how much at least: what it announced. [`LaneId::UNPAID`] for nothing.
    pub lane: LaneId,
    /// For a row of a known token.
    pub price_prefill: Amount,
    /// For a row of a chosen token.
    pub price_decode: Amount,
    /// For the tail: hash of the sampling terms that it was told, and commitment to its seed.
    pub sampling: Option<(Digest, Digest)>,
}

/// Why a hop does not acknowledge an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConsentError {
    /// Another session, generation, router or key.
    #[error("the open is of another session")]
    OtherSession,
    /// Another model, class, or other nodes and spans than the plan's.
    #[error("the open is not of the plan that was opened")]
    OtherPlan,
    /// The hop's key or where it goes on are not what it said.
    #[error("the open says something else of this hop than it answered")]
    OtherHop,
    /// Another lane, or less than was announced.
    #[error("the open pays otherwise than announced")]
    Price,
    /// Other sampling terms than the tail was told.
    #[error("the open names other sampling terms")]
    Sampling,
    /// It does not follow the open before.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl Consent<'_> {
    /// The acknowledgement to sign. `before` is the open of the generation before, if the hop was in it.
    pub fn to(&self, open: &VerifiedOpen, before: Option<&VerifiedOpen>) -> Result<OpenAck, ConsentError> {
        let facts = open.open();
        let session = (facts.router, facts.router_key, facts.session, facts.generation);
        if session != (self.router, self.router_key, self.session, self.generation) {
            return Err(ConsentError::OtherSession);
        }
        let Plan { model, class, n_layers, ref stages } = *self.plan;
        let planned = stages.iter().map(|stage| (stage.node, stage.span));
        let opened = facts.route.iter().map(|hop: &RouteHop| -> (NodeId, LayerSpan) { (hop.node, hop.span) });
        if (facts.model, facts.class, facts.n_layers) != (model, class, n_layers) || !opened.eq(planned) {
            return Err(ConsentError::OtherPlan);
        }
        let hop = facts.hop(self.hop).ok_or(ConsentError::OtherHop)?;
        if hop.receipt_key != self.receipt_key || hop.goes_on != self.goes_on {
            return Err(ConsentError::OtherHop);
        }
        let enough = hop.price_prefill >= self.price_prefill && hop.price_decode >= self.price_decode;
        if hop.lane != self.lane || !enough {
            return Err(ConsentError::Price);
        }
        if self.sampling.is_some_and(|told| told != (facts.sampling_hash, facts.seed_commit)) {
            return Err(ConsentError::Sampling);
        }
        // A generation in between may have gone without this hop: then there is nothing to compare with.
        if let Some(before) = before
            && before.digest() == facts.prev
        {
            open.follows(before)?;
        }
        Ok(OpenAck { open: open.digest(), hop: self.hop })
    }
}
