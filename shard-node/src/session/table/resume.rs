//! A session's next generation goes on from the rows that its stages hold of the one before.
//!
//! Whoever is asked knows from where on the next stage needs rows (`docs/PROTOCOL.md` 3.5). A stage that holds more than
//! that goes on where its own rows end, if it holds what it has sent on since; else it computes from there on again.

use std::ops::Range;
use std::time::Instant;

use proto::{Generation, Position};

use super::parked::Rows;
use super::{Admitted, Effect, SessionTable};
use crate::session::{Session, SessionKey, Terms, reuse};

/// What came of broken pipelines so far, and what is held for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Sessions that went on from the rows of their generation before.
    pub resumed: u64,
    /// Rows sent on once more.
    pub replayed_rows: u64,
    /// Positions of KV that hold rows of broken sessions.
    pub parked_positions: u64,
    /// Bytes of rows held that were sent on.
    pub boundary_bytes: u64,
    /// Sessions whose rows sent on were given up for want of room.
    pub boundary_evictions: u64,
    /// Sessions that stand by for another node's.
    pub standbys: u64,
    /// Rows sent to nodes that stand by.
    pub copied_rows: u64,
}

/// Whether the next generation of a session that broke would gain by its rows: there is none for one that was not
/// answering yet, as that begins anew.
pub(super) fn is_worth_parking(session: &Session) -> bool {
    let terms = session.terms();
    let answering = session.is_decoding() || terms.generation.get() > 0 || terms.standby;
    answering && session.held() > 0
}

impl SessionTable {
    /// Where an admitted session's rows come from.
    pub(super) fn provide(
        &mut self,
        now: Instant,
        mut terms: Terms,
        kept: Option<Rows>,
        effects: &mut Vec<Effect>,
    ) -> Admitted {
        let key = terms.key;
        if let Some(rows) = kept {
            // An honest router never asks for another number of positions, and the slot is as large as it was; of the
            // layers it may want others.
            let fits = rows.reserved == terms.max_positions && rows.part == terms.part;
            let (held, replay) = self.goes_on_at(&terms, rows.held);
            if held > 0 && fits && rows.generation.get() >= terms.resume.since {
                effects.push(Effect::Trim(rows.slot, Position::new(held)));
                self.boundaries.trim(key, Position::new(held));
                self.ledger.set_used(key, held);
                self.resumed += 1;
                (terms.reusable, terms.replay) = (held, replay);
                terms.mixed = rows.scope != Some(terms.scope);
                return Admitted { terms, rows: None, freed_after: None, kept: Some(rows.slot) };
            }
            effects.push(self.give_up(key, rows));
        }
        // In a later generation rows may come from what another node sent in an earlier one.
        terms.mixed = terms.generation.get() > 0;
        let free = self.ledger.capacity() - self.ledger.reserved();
        let mut found = reuse::admit(&mut self.prefixes, now, &terms, free);
        effects.extend(found.freed.into_iter().map(Effect::Free));
        if let (Some(rows), true) = (&mut found.rows, terms.resume.rows > 0) {
            // Nothing was sent on of these.
            rows.positions = rows.positions.min(terms.resume.downstream);
        }
        let rows = found.rows.filter(|rows| rows.positions > 0);
        Admitted { terms, rows, freed_after: found.freed_after, kept: None }
    }

    /// How many of the rows held are of use, and which rows the next stage is to be sent once more.
    fn goes_on_at(&self, terms: &Terms, held: u32) -> (u32, Range<u32>) {
        let (held, next) = (held.min(terms.resume.rows), terms.resume.downstream);
        if terms.downstream.is_none() || held <= next {
            return (held, 0..0);
        }
        let missing = next..held;
        if self.boundaries.covers(terms.key, &missing) { (held, missing) } else { (next, 0..0) }
    }

    /// Keeps the rows of a session that broke. They stay promised to it.
    pub(super) fn park(&mut self, now: Instant, session: &Session) -> Vec<Effect> {
        let (terms, slot, held) = (session.terms(), session.slot(), session.held());
        let rows = Rows {
            slot,
            held,
            reserved: terms.max_positions,
            part: terms.part,
            generation: terms.generation,
            scope: (!terms.mixed).then_some(terms.scope),
        };
        self.parked.insert(now, terms.key, rows, terms.lease);
        self.boundaries.trim(terms.key, Position::new(held));
        // Whatever was being computed is given up by it.
        let mut effects = vec![Effect::Trim(slot, Position::new(held))];
        while self.parked.len() > self.limits.sessions {
            let Some((key, rows)) = self.parked.take_oldest() else { break };
            self.ledger.release(key);
            effects.push(self.give_up(key, rows));
        }
        effects
    }

    /// The router wants nothing more of a session: what is kept of it is of no use, or not to be trusted.
    pub(super) fn not_resumed(&mut self, key: SessionKey, generation: Generation) -> Vec<Effect> {
        let Some(rows) = self.parked.take_up_to(key, generation) else { return Vec::new() };
        self.ledger.release(key);
        vec![self.give_up(key, rows)]
    }

    /// Kept rows are of no use any more; their reservation was taken back.
    pub(super) fn give_up(&mut self, key: SessionKey, rows: Rows) -> Effect {
        self.boundaries.remove(key);
        Effect::Free(rows.slot)
    }

    /// Positions promised to open sessions: what is kept of broken ones goes to whoever needs it.
    pub fn reserved(&self) -> u64 {
        self.ledger.reserved() - self.parked.positions()
    }

    /// What came of broken pipelines.
    pub fn recovered(&self) -> Recovered {
        Recovered {
            resumed: self.resumed,
            replayed_rows: self.replayed_rows,
            parked_positions: self.parked.positions(),
            boundary_bytes: self.boundaries.bytes(),
            boundary_evictions: self.boundaries.evictions(),
            standbys: self.sessions.values().filter(|entry| entry.session.terms().standby).count() as u64,
            copied_rows: self.copied_rows,
        }
    }
}
