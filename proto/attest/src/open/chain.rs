//! What may change from one generation of a session to the next, and what may not.

use crate::open::{RouteHop, SessionOpen, VerifiedOpen};

/// Why an open does not follow another. The router signed both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Another router, key or session.
    #[error("the open is of another session")]
    OtherSession,
    /// Not a later generation, or it names another open before it.
    #[error("the open does not name the one before it")]
    Link,
    /// What must stay was changed.
    #[error("the open changes the session's {0}")]
    Changed(&'static str),
    /// A hop that stays has another lane or price.
    #[error("hop {0} stays, but its lane or price changed")]
    Price(u16),
}

impl VerifiedOpen {
    /// Whether this open may come after `before`.
    pub fn follows(&self, before: &Self) -> Result<(), ChainError> {
        let (new, old) = (self.open(), before.open());
        if (new.router, new.router_key, new.session) != (old.router, old.router_key, old.session) {
            return Err(ChainError::OtherSession);
        }
        // Numbers are left out where a pipeline broke before it was signed for.
        if old.generation >= new.generation || new.prev != before.digest() {
            return Err(ChainError::Link);
        }
        let changed = [
            (new.model != old.model || new.n_layers != old.n_layers, "model"),
            (new.class != old.class, "class"),
            (new.prompt_rows != old.prompt_rows, "prompt"),
            (new.forced_rows < old.forced_rows, "answer so far"),
            (new.sampling_hash != old.sampling_hash, "sampling"),
            (new.seed_commit != old.seed_commit, "seed"),
            (new.max_tokens != old.max_tokens, "max_tokens"),
            (new.opened_unix_s < old.opened_unix_s, "time"),
            (new.deadline_unix_s != old.deadline_unix_s, "deadline"),
        ];
        if let Some((_, what)) = changed.into_iter().find(|(changed, _)| *changed) {
            return Err(ChainError::Changed(what));
        }
        for (index, hop) in new.route.iter().enumerate() {
            let stays = old.route.iter().find(|old| old.stays_as(hop));
            let terms = |hop: &RouteHop| (hop.lane, hop.price_prefill, hop.price_decode);
            if stays.is_some_and(|old| terms(old) != terms(hop)) {
                return Err(ChainError::Price(index as u16));
            }
        }
        Ok(())
    }
}

impl VerifiedOpen {
    /// Whether the router signed two different opens for one generation: both are evidence against its key.
    pub fn contradicts(&self, other: &Self) -> bool {
        let (a, b) = (self.open(), other.open());
        let place = |open: &SessionOpen| (open.router_key, open.session, open.generation);
        place(a) == place(b) && self.digest() != other.digest()
    }
}

impl RouteHop {
    /// Whether it is the same node with the same layers, which may have kept rows. Its key may have been rotated.
    pub fn stays_as(&self, other: &Self) -> bool {
        self.node == other.node && self.span == other.span
    }
}
