//! All sessions of a stage: admission, generations, whose frame is whose, and what the next step computes.
//!
//! Pure like [`Session`]: the shell opens and frees KV slots, runs steps and sends what [`Effect`]s say.

mod capacity;
mod copies;
mod parked;
mod resume;
mod steps;

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use proto::activation::Activations;
use proto::prefix::TenantId;
use proto::session::{Open, Sampled};
use proto::status::{CloseCode, Refusal, RefusalCode};
use proto::{Generation, LayerSpan, NodeId, Position, SessionId};
use shard_node_stage::{
    Batches, ChunkPacer, KvLedger, KvSlot, PrefixMatch, PrefixStore, RowBudget, Scheduler,
};

use super::boundary::Boundaries;
use super::inbox::{Arrival, Chunk, ChunkRows, Hold};
use super::reuse::{self, PREFIX_LEASE};
use super::tombstones::Tombstones;
use super::{Action, Admission, Event, Report, Session, SessionKey, Shape, Terms};
use copies::Standby;
use parked::Parked;

pub use resume::Recovered;
pub use steps::Replayed;

/// Names a connection to a neighbour, as long as this process lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u64);

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send the token to stage 0 by this link, before anything else.
    Return(LinkId, Sampled),
    /// The session's token at this position was chosen from logits with this logarithm of the sum of exponentials.
    Chosen(SessionKey, Position, u32, f32),
    /// Tell the router.
    Report(NodeId, Report),
    /// Free the KV.
    Free(KvSlot),
    /// Forget the KV's rows from the position on, before the next step.
    Trim(KvSlot, Position),
    /// Keep the KV's first rows, and only these; if that fails, [`SessionTable::prefix_lost`].
    Retain(KvSlot, Position),
    /// The session is over for this reason; let go of its link.
    Ended(SessionKey, CloseCode),
}

/// The bounds of a table.
#[derive(Debug, Clone, Copy)]
pub struct TableLimits {
    /// Positions of KV.
    pub kv_positions: u64,
    /// Those of them that may hold rows of sessions that are over, as long as nobody else needs them.
    pub prefix_positions: u64,
    /// Bytes of rows sent on that are held in case the next stage is lost.
    pub boundary_bytes: u64,
    /// Sessions open at once.
    pub sessions: usize,
    /// Rows of a step.
    pub budget: RowBudget,
    /// Most bytes of activations that a prefill chunk gives.
    pub chunk_bytes: usize,
}

/// Sessions of one stage.
#[derive(Debug)]
pub struct SessionTable {
    admission: Admission,
    limits: TableLimits,
    // Bounded by `limits.sessions`.
    sessions: HashMap<SessionKey, Entry>,
    /// By the neighbour whose frames name only the session.
    by_feeder: HashMap<(NodeId, SessionId), SessionKey>,
    tombstones: Tombstones,
    ledger: KvLedger<SessionKey>,
    prefixes: PrefixStore,
    parked: Parked,
    boundaries: Boundaries,
    // Both bounded by the sessions open.
    replaying: Vec<SessionKey>,
    copying: Vec<SessionKey>,
    scheduler: Scheduler<SessionKey, (NodeId, TenantId)>,
    pacer: ChunkPacer,
    batches: Batches<SessionKey>,
    /// Sessions whose prompt is computed, when the last step was chosen.
    decoding: u32,
    /// Of the longest pipeline then.
    stages: u32,
    /// When parts of the span had their last step, counted in steps. Bounded by `steps::MOST_PARTS`.
    served: HashMap<LayerSpan, u64>,
    turn: u64,
    draining: bool,
    /// No session has to be done before.
    earliest_deadline: Option<Instant>,
    late_rows: u64,
    skipped_rows: u64,
    replayed_rows: u64,
    copied_rows: u64,
    resumed: u64,
}

/// A session that may start: its positions are reserved.
#[derive(Debug)]
pub struct Admitted {
    /// Its terms; [`Terms::reusable`] is for the shell to set once rows are copied.
    pub terms: Terms,
    /// Rows to copy into its KV.
    pub rows: Option<PrefixMatch>,
    /// What to free when they are copied.
    pub freed_after: Option<KvSlot>,
    /// The KV of its earlier generation, with [`Terms::reusable`] rows in it, instead of a new one.
    pub kept: Option<KvSlot>,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    link: Option<LinkId>,
    /// Rows that go to the next stage before any others.
    replay: Option<Range<u32>>,
    /// Who stands by for the next stage.
    standby: Option<Standby>,
    /// Connections of the feeder that rows or tokens came on: at most one of each class.
    fed_by: [Option<LinkId>; 2],
}

impl SessionTable {
    /// No session is open.
    pub fn new(admission: Admission, limits: TableLimits) -> Self {
        Self {
            admission,
            limits,
            sessions: HashMap::new(),
            by_feeder: HashMap::new(),
            tombstones: Tombstones::default(),
            ledger: KvLedger::new(limits.kv_positions),
            prefixes: PrefixStore::new(limits.prefix_positions.min(limits.kv_positions)),
            parked: Parked::default(),
            boundaries: Boundaries::new(admission.shape.row_bytes(), limits.boundary_bytes),
            replaying: Vec::new(),
            copying: Vec::new(),
            scheduler: Scheduler::new(limits.budget),
            pacer: ChunkPacer::new(limits.budget.rows),
            batches: Batches::default(),
            stages: 1,
            decoding: 0,
            served: HashMap::new(),
            turn: 0,
            draining: false,
            earliest_deadline: None,
            late_rows: 0,
            skipped_rows: 0,
            replayed_rows: 0,
            copied_rows: 0,
            resumed: 0,
        }
    }

    /// Refuses new sessions from now on.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends the sessions that stand by for other nodes': nobody waits for them.
    pub fn end_standbys(&mut self, now: Instant) -> Vec<Effect> {
        self.apply_where(now, |entry| entry.session.terms().standby, |_| Event::ShutDown)
    }

    /// Whether new sessions are refused.
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Sessions open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Reservations.
    pub const fn ledger(&self) -> &KvLedger<SessionKey> {
        &self.ledger
    }

    /// Generations remembered as closed.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Rows that came for sessions already closed, so far.
    pub const fn late_rows(&self) -> u64 {
        self.late_rows
    }

    /// Prompt rows that were reused, so far.
    pub const fn skipped_rows(&self) -> u64 {
        self.skipped_rows
    }

    /// Rows of sessions that are over.
    pub const fn prefixes(&self) -> &PrefixStore {
        &self.prefixes
    }

    /// The rows that were to be kept in this slot could not be.
    pub fn prefix_lost(&mut self, slot: KvSlot) {
        self.prefixes.forget(slot);
    }

    /// Reserves KV for a session. An older generation of it is closed, whether or not the new one is admitted: its
    /// router has given it up. After `Ok` the shell calls [`Self::insert`] or [`Self::abandon`].
    pub fn admit(
        &mut self,
        now: Instant,
        router: NodeId,
        open: &Open,
    ) -> (Vec<Effect>, Result<Admitted, Refusal>) {
        let key = SessionKey { router, session: open.session };
        let mut effects = Vec::new();
        let known = self.sessions.get(&key).map(|entry| entry.session.terms().generation);
        let newest = known.max(self.tombstones.newest(&key));
        if newest.is_some_and(|newest| newest >= open.generation) {
            let detail = format!("generation {} came, {newest:?} is known", open.generation);
            return (effects, Err(Refusal::new(RefusalCode::Stale, detail)));
        }
        if known.is_some() {
            effects = self.end(now, key, CloseCode::Superseded);
        }
        let kept = self.parked.take(key);
        if kept.is_some() {
            self.ledger.release(key);
        }
        let admitted = self.admit_new(now, router, open, &mut effects);
        let admitted = match (admitted, kept) {
            (Ok(terms), kept) => Ok(self.provide(now, terms, kept, &mut effects)),
            (Err(refusal), kept) => {
                effects.extend(kept.map(|rows| self.give_up(key, rows)));
                Err(refusal)
            }
        };
        (effects, admitted)
    }

    /// The session is open from now on.
    pub fn insert(&mut self, now: Instant, terms: Terms, slot: KvSlot, shape: Option<Box<dyn Shape>>) {
        let key = terms.key;
        if let Some(feeder) = terms.feeder() {
            self.by_feeder.insert((feeder, key.session), key);
        }
        let replay = (!terms.replay.is_empty()).then(|| terms.replay.clone());
        if replay.is_some() {
            self.replaying.push(key);
            self.boundaries.pin(key, true);
        }
        let session = Session::new(now, terms, slot, shape);
        self.earliest_deadline = self.earliest_deadline.into_iter().chain(session.deadline()).min();
        self.sessions.insert(key, Entry { session, link: None, replay, standby: None, fed_by: [None; 2] });
    }

    /// No KV could be had for an admitted session: takes its reservation back.
    pub fn abandon(&mut self, key: SessionKey) {
        self.ledger.release(key);
    }

    /// The neighbour that the session sends to is connected. `false` if the session is over by now.
    pub fn attach(&mut self, key: SessionKey, generation: Generation, link: LinkId) -> bool {
        match self.entry(key, generation) {
            Some(entry) => {
                entry.link = Some(link);
                true
            }
            None => false,
        }
    }

    /// The session was opened, but its neighbour can't be reached: forgets it without a trace, since its router is
    /// told by a refusal and may try again.
    pub fn withdraw(&mut self, now: Instant, key: SessionKey, generation: Generation) -> Vec<Effect> {
        let Some(entry) = self.entry(key, generation) else { return Vec::new() };
        // Its router may go on by yet another route.
        let keep = if resume::is_worth_parking(&entry.session) { Keep::Parked } else { Keep::Nothing };
        self.remove(now, key, CloseCode::HopLost, keep)
    }

    /// A control frame of the session's router.
    pub fn control(
        &mut self,
        now: Instant,
        key: SessionKey,
        generation: Generation,
        event: Event<'_>,
    ) -> Vec<Effect> {
        if self.entry(key, generation).is_some() {
            return self.apply(now, key, event);
        }
        let newer = self.sessions.contains_key(&key);
        let Event::Close(code) = event else { return Vec::new() };
        if !newer {
            // It may have overtaken the open.
            self.tombstones.bury(now, key, generation, UNKNOWN_LEASE);
        }
        if is_loss(code) { Vec::new() } else { self.not_resumed(key, generation) }
    }

    /// A frame of rows from `feeder`, that came on `link`.
    pub fn rows(
        &mut self,
        now: Instant,
        feeder: NodeId,
        link: LinkId,
        frame: &Activations,
        arrival: Arrival,
        hold: Option<&Hold>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let row_bytes = self.admission.shape.row_bytes();
        let mut at = 0;
        for group in &frame.groups {
            let end = at + group.rows as usize * row_bytes;
            let bytes = frame.rows.slice(at..end);
            at = end;
            let Some(key) = self.fed(feeder, group.session, group.generation, link) else {
                self.late_rows += u64::from(group.rows);
                continue;
            };
            // Computed with, they would spoil the KV, and come out as if this stage had made them.
            if !frame.dtype.all_finite(&bytes) {
                effects.extend(self.apply(now, key, Event::NotNumbers(feeder)));
                continue;
            }
            let chunk = Chunk {
                rows: ChunkRows::Activations(bytes),
                count: group.rows,
                sample: group.sample,
                prefill: group.prefill,
                arrival: (!group.prefill).then_some(arrival),
                hold: hold.cloned(),
            };
            effects.extend(self.apply(now, key, Event::Rows { start: group.start, chunk }));
        }
        effects
    }

    /// A token from the tail `feeder`, that came on `link`.
    pub fn sampled(
        &mut self,
        now: Instant,
        feeder: NodeId,
        link: LinkId,
        sampled: Sampled,
        arrival: Arrival,
    ) -> Vec<Effect> {
        match self.fed(feeder, sampled.session, sampled.generation, link) {
            Some(key) => {
                self.batches.back(key);
                self.apply(now, key, Event::Sampled { sampled, arrival })
            }
            None => Vec::new(),
        }
    }

    /// A connection that we dialled is gone, and with it the sessions that send by it.
    pub fn link_lost(&mut self, now: Instant, peer: NodeId, link: LinkId) -> Vec<Effect> {
        self.standby_lost(link);
        self.apply_where(now, |entry| entry.link == Some(link), |_| Event::HopLost(peer))
    }

    /// A connection that `peer` dialled is gone: the sessions fed by it, and if it broke (rather than was closed in
    /// good order) all that `peer` feeds.
    pub fn feeder_lost(&mut self, now: Instant, peer: NodeId, link: LinkId, broken: bool) -> Vec<Effect> {
        let hit = |entry: &Entry| {
            entry.fed_by.contains(&Some(link)) || (broken && entry.session.terms().feeder() == Some(peer))
        };
        self.apply_where(now, hit, |_| Event::HopLost(peer))
    }

    /// The last connection of a router is gone.
    pub fn router_lost(&mut self, now: Instant, router: NodeId) -> Vec<Effect> {
        self.apply_where(now, |entry| entry.session.terms().key.router == router, |_| Event::RouterLost)
    }

    /// Time passes.
    pub fn tick(&mut self, now: Instant) -> Vec<Effect> {
        self.tombstones.sweep(now);
        let mut effects = self.apply_where(now, |_| true, |_| Event::Tick);
        effects.extend(self.prefixes.expire(now, PREFIX_LEASE).into_iter().map(Effect::Free));
        for (key, rows) in self.parked.expire(now) {
            self.ledger.release(key);
            effects.push(self.give_up(key, rows));
        }
        effects
    }

    /// Ends the sessions whose deadline has passed: none of their rows goes into a step any more.
    pub fn overdue(&mut self, now: Instant) -> Vec<Effect> {
        let late = |deadline: Instant| deadline <= now;
        if !self.earliest_deadline.is_some_and(late) {
            return Vec::new();
        }
        let hit = |entry: &Entry| entry.session.deadline().is_some_and(late);
        let effects = self.apply_where(now, hit, |_| Event::Tick);
        self.earliest_deadline = self.sessions.values().filter_map(|entry| entry.session.deadline()).min();
        effects
    }

    /// Ends all sessions.
    pub fn shut_down(&mut self, now: Instant) -> Vec<Effect> {
        self.draining = true;
        let mut effects = self.apply_where(now, |_| true, |_| Event::ShutDown);
        effects.extend(self.give_up_prefixes());
        while let Some((key, rows)) = self.parked.take_oldest() {
            self.ledger.release(key);
            effects.push(self.give_up(key, rows));
        }
        effects
    }

    /// Frees all that is kept of sessions that are over.
    pub fn give_up_prefixes(&mut self) -> Vec<Effect> {
        self.prefixes.evict(u64::MAX, None).into_iter().map(Effect::Free).collect()
    }

    /// A session's output can't be sent to this neighbour.
    pub fn hop_failed(&mut self, now: Instant, key: SessionKey, peer: NodeId) -> Vec<Effect> {
        self.apply(now, key, Event::HopLost(peer))
    }

    /// The neighbour that a session sends to.
    pub fn receiver(&self, key: SessionKey) -> Option<NodeId> {
        self.sessions.get(&key)?.session.terms().receiver().map(|stage| stage.node)
    }

    fn entry(&mut self, key: SessionKey, generation: Generation) -> Option<&mut Entry> {
        self.sessions.get_mut(&key).filter(|entry| entry.session.terms().generation == generation)
    }

    /// The session that `feeder` means, if it is open in this generation; notes the connection.
    fn fed(
        &mut self,
        feeder: NodeId,
        session: SessionId,
        generation: Generation,
        link: LinkId,
    ) -> Option<SessionKey> {
        let key = *self.by_feeder.get(&(feeder, session))?;
        let entry = self.entry(key, generation)?;
        if !entry.fed_by.contains(&Some(link)) {
            // A third connection takes the place of the first: that one must be gone.
            let place = usize::from(entry.fed_by[0].is_some());
            entry.fed_by[place] = Some(link);
        }
        Some(key)
    }

    fn apply_where<'a>(
        &mut self,
        now: Instant,
        hit: impl Fn(&Entry) -> bool,
        event: impl Fn(SessionKey) -> Event<'a>,
    ) -> Vec<Effect> {
        let keys: Vec<SessionKey> =
            self.sessions.iter().filter(|(_, entry)| hit(entry)).map(|(&key, _)| key).collect();
        keys.into_iter().flat_map(|key| self.apply(now, key, event(key))).collect()
    }

    fn apply(&mut self, now: Instant, key: SessionKey, event: Event<'_>) -> Vec<Effect> {
        let Some(entry) = self.sessions.get_mut(&key) else { return Vec::new() };
        let (link, slot) = (entry.link, entry.session.slot());
        let flow = entry.session.terms().flow();
        let mut effects = Vec::new();
        for action in entry.session.on_event(now, event) {
            match action {
                Action::DecodeReady => self.scheduler.push_decode(key, flow),
                Action::PrefillReady(rows) => self.scheduler.push_prefill(key, flow, rows),
                Action::Trim(length) => {
                    self.boundaries.trim(key, length);
                    effects.push(Effect::Trim(slot, length));
                }
                Action::Round(round) => self.batches.round(round, self.decoding, self.stages),
                Action::Skipped(rows) => self.skipped_rows += u64::from(rows),
                Action::Report(report) => effects.push(Effect::Report(key.router, report)),
                Action::Chosen { position, token, logsumexp } => {
                    effects.push(Effect::Chosen(key, position, token, logsumexp));
                }
                Action::Return(sampled) => effects.extend(link.map(|link| Effect::Return(link, sampled))),
                Action::End(code) => effects.extend(self.end(now, key, code)),
            }
        }
        effects
    }

    fn end(&mut self, now: Instant, key: SessionKey, code: CloseCode) -> Vec<Effect> {
        let Some(entry) = self.sessions.get(&key) else { return Vec::new() };
        let terms = entry.session.terms();
        self.tombstones.bury(now, key, terms.generation, terms.lease);
        let kept =
            if self.draining { None } else { reuse::keep(&mut self.prefixes, now, &entry.session, code) };
        let parks = is_loss(code) && !self.draining && resume::is_worth_parking(&entry.session);
        match kept {
            Some((length, freed)) => {
                let mut effects: Vec<_> = freed.into_iter().map(Effect::Free).collect();
                effects.extend(self.remove(now, key, code, Keep::Beginning(length)));
                effects
            }
            None if parks => self.remove(now, key, code, Keep::Parked),
            None => self.remove(now, key, code, Keep::Nothing),
        }
    }

    /// Its KV is freed but for what is to be kept.
    fn remove(&mut self, now: Instant, key: SessionKey, code: CloseCode, keep: Keep) -> Vec<Effect> {
        let Some(Entry { session, replay, .. }) = self.sessions.remove(&key) else { return Vec::new() };
        if let Some(feeder) = session.terms().feeder() {
            self.by_feeder.remove(&(feeder, key.session));
        }
        self.scheduler.cancel(key);
        self.batches.back(key);
        if replay.is_some() {
            self.replaying.retain(|&other| other != key);
            self.boundaries.pin(key, false);
        }
        self.copying.retain(|&other| other != key);
        let mut effects = match keep {
            Keep::Parked => self.park(now, &session),
            Keep::Beginning(length) => {
                self.let_go(key);
                vec![Effect::Retain(session.slot(), length)]
            }
            Keep::Nothing => {
                self.let_go(key);
                vec![Effect::Free(session.slot())]
            }
        };
        effects.push(Effect::Ended(key, code));
        effects
    }

    /// Nothing is held for the session any more.
    fn let_go(&mut self, key: SessionKey) {
        self.ledger.release(key);
        self.boundaries.remove(key);
    }
}

/// Whether a session that ends so may go on in another generation.
const fn is_loss(code: CloseCode) -> bool {
    matches!(code, CloseCode::HopLost | CloseCode::Superseded)
}

/// What remains of a session's KV.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Nothing,
    /// The beginning of its prompt, for others of its tenant.
    Beginning(Position),
    /// All, for its next generation.
    Parked,
}

/// A close of a session that is not known: as long as the longest open may be under way, generously.
const UNKNOWN_LEASE: Duration = Duration::from_mins(1);
