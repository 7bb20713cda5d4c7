//! Which rows the next step computes, what came of it, and which rows are sent once more.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::activation::RowGroup;
use proto::{LayerSpan, Position};
use proto_sampling::Scratch;
use shard_node_stage::{StepCaps, StepPlan};

use super::{Effect, LinkId, SessionTable};
use crate::session::step::{Step, StepBuilder};
use crate::session::{Event, SessionKey};

/// Rows of an earlier generation that a session's next stage lacks.
#[derive(Debug)]
pub struct Replayed {
    /// Where they go, by the bulk connection.
    pub link: LinkId,
    /// Of which session.
    pub key: SessionKey,
    /// They are signed for.
    pub attested: bool,
    /// Whose they are.
    pub row: RowGroup,
    /// The rows.
    pub rows: Bytes,
}

impl SessionTable {
    /// Batches of decode rows that may be under way in the pipeline.
    pub fn batches(&self) -> u32 {
        self.batches.most(self.decoding, self.stages)
    }

    /// Most rows of a prefill chunk while others decode.
    pub const fn chunk_rows(&self) -> u32 {
        self.pacer.chunk()
    }

    /// Of these layers so many compute a chunk of so many rows before decode rows have their turn.
    pub fn piece(&self, rows: u32, part: LayerSpan) -> u32 {
        self.pacer.piece(rows, part.len())
    }

    /// Rows that wait for a step.
    pub fn waiting_rows(&self) -> u64 {
        self.scheduler.waiting_rows()
    }

    /// Takes the rows of the next step: decode rows only in a pause of a chunk that is `under_way`. `has_room` says
    /// whether a link takes another bulk frame; a session whose link does not waits, so that a slow network throttles
    /// its prefill and nobody else's.
    pub fn next_step(
        &mut self,
        now: Instant,
        under_way: bool,
        has_room: impl Fn(LinkId) -> bool,
    ) -> Option<Step> {
        let sessions = &self.sessions;
        let chunk_rows = self.most_chunk_rows();
        self.decoding = sessions.values().filter(|entry| entry.session.is_decoding()).count() as u32;
        self.stages = sessions.values().map(|entry| entry.session.terms().stages).max().unwrap_or(1);
        // Only a first stage that waits for another one's tokens decides what is under way.
        // Batches are told apart by the tokens that come back to it: a session whose tokens do not would be under way for
        // ever.
        let mut decoding = sessions.values().filter(|entry| entry.session.is_decoding()).peekable();
        let leads =
            decoding.peek().is_some() && decoding.all(|entry| entry.session.terms().returned_by.is_some());
        let caps = StepCaps {
            decode: if leads { self.batches.room(now, self.decoding, self.stages) } else { u32::MAX },
            prefill: match (under_way, self.decoding) {
                (true, _) => 0,
                (false, 0) => u32::MAX,
                (false, _) => self.pacer.chunk(),
            },
            beside: self.pacer.beside(),
        };
        let plan = self.scheduler.next(caps, |key, offered| match sessions.get(&key) {
            Some(entry) if entry.replay.is_none() && entry.link.is_none_or(&has_room) => {
                offered.min(chunk_rows).min(entry.session.ready_rows()).max(1)
            }
            Some(_) => 0,
            // Not reached: a session that ends is cancelled. One row of nothing is dropped below.
            None => 1,
        })?;
        let (plan, part) = self.of_one_part(plan);
        let sessions = &self.sessions;
        let mut decode = plan.decode;
        if leads {
            self.batches.sent(now, &decode);
        }
        // Side by side by link, so that the rows for one neighbour are one slice of the output.
        decode.sort_by_key(|key| sessions.get(key).and_then(|entry| entry.link));
        let mut builder = StepBuilder::new(part);
        let chosen = decode.into_iter().map(|key| (key, 1)).chain(plan.prefill).chain(plan.also);
        for (key, rows) in chosen {
            let Some(entry) = self.sessions.get_mut(&key) else { continue };
            if let Some(taken) = entry.session.take(now, rows) {
                builder.add(key, &entry.session, entry.link, taken);
            }
        }
        builder.finish()
    }

    /// Of the rows chosen those that the same layers compute; the others wait for the next step.
    fn of_one_part(&mut self, plan: StepPlan<SessionKey>) -> (StepPlan<SessionKey>, LayerSpan) {
        let part_of = |key: &SessionKey| self.sessions.get(key).map(|entry| entry.session.terms().part);
        let keys = || plan.decode.iter().chain(plan.prefill.iter().chain(&plan.also).map(|(key, _)| key));
        // Where sessions of several parts are open they take turns: the one goes next that was served longest ago.
        let served = |part: &LayerSpan| self.served.get(part).copied().unwrap_or(0);
        let part = keys().filter_map(part_of).min_by_key(served).unwrap_or(self.admission.shape.span);
        if self.served.len() >= MOST_PARTS {
            self.served.clear();
        }
        self.turn += 1;
        self.served.insert(part, self.turn);
        if keys().filter_map(part_of).all(|other| other == part) {
            return (plan, part);
        }
        let waits = |key: &SessionKey| part_of(key).is_some_and(|other| other != part);
        let (later, decode): (Vec<_>, Vec<_>) = plan.decode.into_iter().partition(waits);
        let chunks = plan.prefill.into_iter().chain(plan.also);
        let (chunks_later, mut chunks): (Vec<_>, Vec<_>) = chunks.partition(|(key, _)| waits(key));
        for (key, rows) in later.into_iter().map(|key| (key, 0)).chain(chunks_later) {
            let Some(entry) = self.sessions.get(&key) else { continue };
            let flow = entry.session.terms().flow();
            match rows {
                0 => self.scheduler.push_decode(key, flow),
                rows => self.scheduler.push_prefill(key, flow, rows),
            }
        }
        let also = if chunks.is_empty() { Vec::new() } else { chunks.split_off(1) };
        (StepPlan { decode, prefill: chunks.pop(), also }, part)
    }

    /// The step was computed. `logits` holds one row for each sampled member, in order; empty on all but the tail.
    pub fn step_done(
        &mut self,
        now: Instant,
        step: &Step,
        took: Duration,
        logits: &mut [f32],
        scratch: &mut Scratch,
    ) -> Vec<Effect> {
        let prefill = step.prefill_rows();
        self.pacer.observe(step.rows() - prefill, prefill, took);
        let vocab = self.admission.shape.vocab as usize;
        let row_bytes = self.admission.shape.row_bytes() as u64;
        let mut rows_of_logits = logits.chunks_exact_mut(vocab.max(1));
        let mut effects = Vec::new();
        for member in &step.members {
            let logits = if member.row.sample { rows_of_logits.next() } else { None };
            let bytes = if logits.is_some() { SAMPLED_BYTES } else { GROUP_BYTES + row_bytes };
            effects.extend(self.apply(now, member.key, Event::StepDone { took, bytes, logits, scratch }));
            if let Some(entry) = self.sessions.get(&member.key) {
                self.ledger.set_used(member.key, entry.session.applied().get());
            }
        }
        effects
    }

    /// The rows of one member could not be computed.
    pub fn step_failed(&mut self, now: Instant, key: SessionKey, detail: String) -> Vec<Effect> {
        self.apply(now, key, Event::StepFailed { detail })
    }

    /// The next rows to send again, if a link that waits for some takes another bulk frame. New rows of a session wait
    /// until these are on their way.
    pub fn next_replay(&mut self, has_room: impl Fn(LinkId) -> bool) -> Option<Replayed> {
        let most = self.most_chunk_rows();
        let at = self.replaying.iter().position(|key| {
            let link = self.sessions.get(key).and_then(|entry| entry.link);
            link.is_some_and(&has_room)
        })?;
        let key = self.replaying[at];
        let entry = self.sessions.get_mut(&key)?;
        let (range, link) = (entry.replay.clone()?, entry.link?);
        let start = Position::new(range.start);
        let read = self.boundaries.read(key, start, most.min(range.end - range.start));
        // Not reached: they are pinned.
        let (rows, count) = read.unwrap_or_default();
        let terms = entry.session.terms();
        let (session, generation, attested) = (terms.key.session, terms.generation, terms.attested);
        let row = RowGroup { session, generation, start, rows: count, sample: false, prefill: true };
        let next = range.start + count;
        if count == 0 || next >= range.end {
            entry.replay = None;
            self.replaying.swap_remove(at);
            self.boundaries.pin(key, false);
        } else {
            entry.replay = Some(next..range.end);
        }
        self.replayed_rows += u64::from(count);
        (count > 0).then_some(Replayed { link, key, attested, row, rows })
    }

    /// What the step gave for the next stages, all rows in order: kept, in case one of them is lost.
    pub fn remember(&mut self, step: &Step, rows: &Bytes) {
        let row_bytes = self.admission.shape.row_bytes();
        let mut at = 0;
        for member in &step.members {
            let end = at + member.row.rows as usize * row_bytes;
            if let (Some(entry), Some(bytes)) = (self.sessions.get(&member.key), rows.get(at..end)) {
                self.boundaries.push(member.key, entry.session.first_row(), member.row.start, bytes);
            }
            at = end;
        }
    }

    /// Rows of a frame of activations.
    pub(super) fn most_chunk_rows(&self) -> u32 {
        (self.limits.chunk_bytes / self.admission.shape.row_bytes().max(1)).max(1) as u32
    }
}

/// Parts whose turn is remembered. A span of 64 layers has more, but not in use at once.
const MOST_PARTS: usize = 256;
/// A row's share of its frame: one entry of the group table, and the header and the fixed part as if it were alone.
const GROUP_BYTES: u64 = 28 + 16 + 8;
/// A `Sampled` frame: header, session, generation, position, token, two floats and `finish`.
const SAMPLED_BYTES: u64 = 8 + 8 + 4 + 4 + 4 + 4 + 4 + 4;
