//! Is there room for a session, and if not, when will there be?

use std::time::{Duration, Instant};

use proto::NodeId;
use proto::session::Open;
use proto::status::{Refusal, RefusalCode};

use super::{Effect, SessionTable};
use crate::session::Terms;

impl SessionTable {
    /// Checks everything and reserves.
    pub(super) fn admit_new(
        &mut self,
        now: Instant,
        router: NodeId,
        open: &Open,
        effects: &mut Vec<Effect>,
    ) -> Result<Terms, Refusal> {
        if self.draining {
            return Err(Refusal::new(RefusalCode::Draining, "choose another node"));
        }
        let terms = self.admission.check(router, open)?;
        if self.sessions.len() >= self.limits.sessions {
            let detail = format!("{} sessions are open, the limit", self.sessions.len());
            let refusal = Refusal::new(RefusalCode::NoCapacity, detail);
            return Err(refusal.retry_after(self.room_in(now, 0).unwrap_or(LONGEST_WAIT)));
        }
        let taken = terms.feeder().is_some_and(|feeder| self.by_feeder.contains_key(&(feeder, open.session)));
        if taken {
            // Two routers drew one number out of 2^64, or one guesses the other's.
            return Err(Refusal::new(RefusalCode::BadPlan, "the session id is taken: draw another one"));
        }
        let wanted = u64::from(open.max_positions);
        let free = self.ledger.capacity() - self.ledger.reserved();
        // What would not fit in any case drives nothing out.
        let fits = free + self.parked.positions() >= wanted;
        while fits && self.ledger.capacity() - self.ledger.reserved() < wanted {
            let Some((key, rows)) = self.parked.take_oldest() else { break };
            self.ledger.release(key);
            effects.push(self.give_up(key, rows));
        }
        self.ledger.reserve(terms.key, open.max_positions).map_err(|error| {
            let refusal = Refusal::new(RefusalCode::NoCapacity, error.to_string());
            match self.room_in(now, u64::from(open.max_positions)) {
                Some(wait) => refusal.retry_after(wait),
                None => refusal,
            }
        })?;
        Ok(terms)
    }

    /// When a session fewer is open and so many positions are free, if those that are open use all they reserved. `None`
    /// if that will never be.
    fn room_in(&self, now: Instant, positions: u64) -> Option<Duration> {
        let paces: Vec<_> = self.sessions.values().filter_map(|entry| entry.session.pace()).collect();
        let pace = paces.iter().sum::<Duration>().checked_div(paces.len() as u32).unwrap_or(USUAL_PACE);
        let mut ends: Vec<_> = self
            .sessions
            .values()
            .map(|entry| (entry.session.ends_in(now, pace), entry.session.terms().max_positions))
            .collect();
        ends.sort_unstable();
        let mut free = self.ledger.capacity() - self.ledger.reserved();
        for (end, reserved) in ends {
            free += u64::from(reserved);
            if free >= positions {
                return Some(end.clamp(SHORTEST_WAIT, LONGEST_WAIT));
            }
        }
        None
    }
}

/// Of a session that has not had two rows yet.
const USUAL_PACE: Duration = Duration::from_millis(50);
/// Bounds of the hint when to ask again: not before an open and a close have gone to and fro; and as sessions mostly
/// end before they have used all they reserved, asking now and then pays.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
