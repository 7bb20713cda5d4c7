//! The compute thread's loop: commands in, steps computed. What goes out is in `worker/outgoing.rs`.

mod outgoing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::session::Open;
use proto::status::{Refusal, RefusalCode};
use proto::{NodeId, Position};
use proto_sampling::Scratch;
use shard_node_stage::{KvSlot, Stage, StageError, StageShape, StepInput, StepOutput};
use tokio::sync::{mpsc, watch};

use super::{Command, Load, record};
use crate::attest::{Facts, Job, Notary, StepRecord};
use crate::links::{Link, ReportLink};
use crate::metrics::NodeMetrics;
use crate::session::table::{Admitted, Effect, LinkId, SessionTable};
use crate::session::{SessionKey, Shape, Step, Terms};

/// The thread's state.
pub(super) struct Worker {
    stage: Box<dyn Stage>,
    shape: StageShape,
    table: SessionTable,
    commands: mpsc::Receiver<Command>,
    // All bounded by the sessions open.
    links: HashMap<LinkId, Arc<Link>>,
    link_users: HashMap<SessionKey, LinkId>,
    standby_links: HashMap<SessionKey, LinkId>,
    // Bounded by the connections open.
    routers: HashMap<NodeId, ReportLink>,
    load: Arc<Load>,
    open_sessions: watch::Sender<usize>,
    metrics: NodeMetrics,
    /// Signs for rows, where this node does.
    notary: Option<Notary>,
    /// Steps that it has not been told of, fewer than [`GATHERED`].
    gathered: Vec<StepRecord>,
    /// Sessions that it signs for. Bounded by the sessions open.
    attested: HashSet<SessionKey>,
    scratch: Scratch,
    /// A prefill chunk that is computed in pieces.
    chunk: Option<UnderWay>,
    last_tick: Option<Instant>,
    stopping: bool,
}

/// A step that is computed in pieces.
struct UnderWay {
    step: Step,
    /// What went in, if it is signed for.
    input: Option<StepInput>,
    slot: KvSlot,
    /// What its pieces took so far.
    took: Duration,
    /// Layers of a piece.
    layers: u32,
    /// The last thing computed was a piece: decode rows that are ready go next.
    pause: bool,
}

impl Worker {
    pub(super) fn new(
        stage: Box<dyn Stage>,
        table: SessionTable,
        commands: mpsc::Receiver<Command>,
        load: Arc<Load>,
        open_sessions: watch::Sender<usize>,
        metrics: NodeMetrics,
        notary: Option<Notary>,
    ) -> Self {
        metrics.kv_capacity.set(table.ledger().capacity() as i64);
        Self {
            shape: stage.shape(),
            stage,
            table,
            commands,
            links: HashMap::new(),
            link_users: HashMap::new(),
            standby_links: HashMap::new(),
            routers: HashMap::new(),
            load,
            open_sessions,
            metrics,
            notary,
            gathered: Vec::new(),
            attested: HashSet::new(),
            scratch: Scratch::default(),
            chunk: None,
            last_tick: None,
            stopping: false,
        }
    }

    /// Until it is told to shut down, or every handle is gone.
    pub(super) fn run(mut self) {
        while !self.stopping {
            // Everything that has come goes in before the next step is chosen, so that a step holds all rows that
            // are ready, and a cancelled one none.
            // Bounded by what was there: producers that never stop must not keep steps from running.
            for _ in 0..self.commands.len() {
                match self.commands.try_recv() {
                    Ok(command) => self.obey(command),
                    Err(_) => break,
                }
            }
            let replayed = self.replay();
            if self.stopping || self.step() || replayed {
                continue;
            }
            let (stage, commands) = (&mut self.stage, &mut self.commands);
            let mut next = None;
            stage.idle(&mut || next = commands.blocking_recv());
            match next {
                Some(command) => self.obey(command),
                None => break,
            }
        }
        let effects = self.table.shut_down(now());
        self.carry_out(effects);
        self.publish();
        self.tell(|| Job::Stop);
    }

    fn obey(&mut self, command: Command) {
        let now = now();
        let effects = match command {
            Command::Open { router, open, shape, reply } => {
                let admitted = self.open(now, router, &open, shape);
                if let Err(refusal) = &admitted {
                    self.metrics.refused(refusal.code);
                }
                self.publish();
                if let Err(Ok(terms)) = reply.send(admitted) {
                    // The asker is gone: nobody will attach or withdraw.
                    let effects = self.table.withdraw(now, terms.key, terms.generation);
                    self.carry_out(effects);
                    self.publish();
                }
                return;
            }
            Command::Attach { key, generation, link, reply } => {
                // The loss of a link is told once, and may have been told before this.
                let open = link.is_alive() && self.table.attach(key, generation, link.id());
                if open {
                    self.link_users.insert(key, link.id());
                    self.links.insert(link.id(), link);
                }
                // The asker waits; if it is gone, the router's lease decides.
                let _ = reply.send(open);
                return;
            }
            Command::Follow { key, generation, link, from } => {
                if link.is_alive() && self.table.follow(key, generation, link.id(), from) {
                    let before = self.standby_links.insert(key, link.id());
                    self.links.insert(link.id(), link);
                    if let Some(before) = before {
                        self.let_go(before);
                    }
                }
                return;
            }
            Command::Withdraw { key, generation } => {
                self.metrics.refused(RefusalCode::HopUnreachable);
                self.table.withdraw(now, key, generation)
            }
            Command::Control { key, generation, event } => self.table.control(now, key, generation, event),
            Command::Rows { feeder, link, frame, arrival, hold } => {
                let late = self.table.late_rows();
                let effects = self.table.rows(now, feeder, link, &frame, arrival, hold.as_ref());
                self.metrics.waste_rows.inc_by(self.table.late_rows() - late);
                effects
            }
            Command::Sampled { feeder, link, sampled, arrival } => {
                self.table.sampled(now, feeder, link, sampled, arrival)
            }
            Command::PeerUp { peer, reports } => {
                self.tell(|| Job::RouterUp { router: peer, reports: reports.clone() });
                self.routers.insert(peer, reports);
                return;
            }
            Command::PeerDown { peer, link, broken } => self.peer_down(now, peer, link, broken),
            Command::LinkLost { peer, link } => self.table.link_lost(now, peer, link),
            Command::Room => return,
            Command::Tick => self.tick(now),
            Command::Drain => {
                self.table.drain();
                self.load.draining.store(true, Ordering::Relaxed);
                self.table.end_standbys(now)
            }
            Command::ShutDown => {
                self.stopping = true;
                return;
            }
        };
        if !effects.is_empty() {
            self.carry_out(effects);
            self.publish();
        }
    }

    fn open(
        &mut self,
        now: Instant,
        router: NodeId,
        open: &Open,
        shape: Option<Box<dyn Shape>>,
    ) -> Result<Terms, Refusal> {
        let (effects, admitted) = self.table.admit(now, router, open);
        // First, as they may free the KV of the generation before.
        self.carry_out(effects);
        let Admitted { mut terms, rows, freed_after, kept } = admitted?;
        let reuses = rows.as_ref().map(|rows| rows.slot);
        let opened = kept.map_or_else(|| self.stage.open_part(terms.part, terms.max_positions), Ok);
        if let (Ok(slot), Some(rows)) = (&opened, rows) {
            match self.stage.copy(rows.slot, *slot, Position::new(rows.positions)) {
                Ok(()) => terms.reusable = rows.positions,
                // The session is none the worse for it but for the time.
                Err(error) => tracing::warn!(%error, "rows not reused"),
            }
        }
        if let Some(slot) = freed_after {
            self.stage.close(slot);
        }
        match opened {
            Ok(slot) => {
                if terms.attested && self.notary.is_some() {
                    self.attested.insert(terms.key);
                    let (key, generation) = (terms.key, terms.generation);
                    let reuses = reuses.filter(|_| terms.reusable > 0);
                    let facts = Box::new(Facts::new(open, &terms, reuses, self.shape.row_bytes()));
                    self.tell(|| Job::Opened { key, generation, facts });
                }
                self.table.insert(now, terms.clone(), slot, shape);
                self.metrics.opened.inc();
                Ok(terms)
            }
            Err(error) => {
                self.table.abandon(terms.key);
                Err(Refusal::new(RefusalCode::NoCapacity, error.to_string()))
            }
        }
    }

    fn peer_down(&mut self, now: Instant, peer: NodeId, link: LinkId, broken: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.routers.get(&peer).is_some_and(|reports| reports.id() == link) {
            self.routers.remove(&peer);
            self.tell(|| Job::RouterDown { router: peer, link });
            effects = self.table.router_lost(now, peer);
        }
        effects.extend(self.table.feeder_lost(now, peer, link, broken));
        effects
    }

    fn tick(&mut self, now: Instant) -> Vec<Effect> {
        // Ticks that piled up behind a long step are one.
        if self.last_tick.is_some_and(|last| now.duration_since(last) < SHORTEST_TICK) {
            return Vec::new();
        }
        self.last_tick = Some(now);
        self.tell_steps();
        self.metrics.kv_used.set(self.table.ledger().used() as i64);
        self.metrics.kv_bytes.set(self.stage.kv_bytes() as i64);
        self.metrics.recovered(&self.table.recovered());
        self.table.tick(now)
    }

    /// Computes one step, or a piece of one; `false` if nothing is ready.
    fn step(&mut self) -> bool {
        let begun = now();
        let overdue = self.table.overdue(begun);
        if !overdue.is_empty() {
            self.carry_out(overdue);
            self.publish();
        }
        let pause = self.chunk.as_mut().map(|chunk| std::mem::take(&mut chunk.pause));
        if pause == Some(false) {
            self.piece(begun);
            return true;
        }
        let links = &self.links;
        let has_room = |link| links.get(&link).is_none_or(|link| link.has_room());
        match self.table.next_step(begun, pause.is_some(), has_room) {
            Some(step) => self.compute(step, begun),
            None if pause.is_some() => self.piece(begun),
            None => return false,
        }
        true
    }

    /// Computes a step, or begins with one that takes its time.
    fn compute(&mut self, mut step: Step, begun: Instant) {
        if let [member] = step.members[..]
            && member.row.prefill
        {
            let layers = self.table.piece(member.row.rows, step.part);
            if layers < step.part.len() {
                return self.begin(step, layers, begun);
            }
        }
        let single = step.members.len() == 1;
        let kept = step.is_attested().then(|| step.input.clone());
        // Tokens are copied if the step may have to be repeated member by member; activations share their bytes.
        let input = if single {
            std::mem::replace(&mut step.input, StepInput::Tokens(Vec::new()))
        } else {
            step.input.clone()
        };
        match self.stage.step(&step.groups, input) {
            Ok(output) => self.finish(&step, kept, output, now().duration_since(begun)),
            Err(error) if single => self.fail(&step, &error),
            Err(error) => {
                tracing::warn!(%error, members = step.members.len(), "step failed: each session by itself now");
                for index in 0..step.members.len() {
                    let single = step.single(index);
                    let begun = now();
                    let kept = single.is_attested().then(|| single.input.clone());
                    match self.stage.step(&single.groups, single.input.clone()) {
                        Ok(output) => self.finish(&single, kept, output, now().duration_since(begun)),
                        Err(error) => self.fail(&single, &error),
                    }
                }
            }
        }
    }

    fn begin(&mut self, mut step: Step, layers: u32, begun: Instant) {
        let input = std::mem::replace(&mut step.input, StepInput::Tokens(Vec::new()));
        let kept = step.is_attested().then(|| input.clone());
        match self.stage.begin(&step.groups, input) {
            Ok(()) => {
                let (slot, took) = (step.groups[0].slot, Duration::ZERO);
                self.chunk = Some(UnderWay { step, input: kept, slot, took, layers, pause: false });
                self.piece(begun);
            }
            Err(error) => self.fail(&step, &error),
        }
    }

    /// Goes on with the chunk under way.
    fn piece(&mut self, begun: Instant) {
        let Some(mut chunk) = self.chunk.take() else { return };
        let output = self.stage.resume(chunk.layers);
        chunk.took += now().duration_since(begun);
        match output {
            Ok(Some(output)) => self.finish(&chunk.step, chunk.input, output, chunk.took),
            Ok(None) => {
                chunk.pause = true;
                self.metrics.pauses.inc();
                self.chunk = Some(chunk);
            }
            Err(error) => self.fail(&chunk.step, &error),
        }
    }

    /// A slot is about to lose rows: what is being computed for it is of no use any more.
    fn give_up(&mut self, slot: KvSlot) {
        if self.chunk.take_if(|chunk| chunk.slot == slot).is_some() {
            self.stage.give_up();
        }
    }

    /// A step was computed. Its `input` is there if rows of it are signed for.
    fn finish(&mut self, step: &Step, input: Option<StepInput>, output: StepOutput, took: Duration) {
        let (mut logits, rows) = match output {
            StepOutput::Logits(logits) => {
                let rows = if input.is_some() { self.stage.last_rows() } else { Ok(Bytes::new()) };
                (logits, rows)
            }
            StepOutput::Activations(rows) => {
                self.table.remember(step, &rows);
                self.forward(step, &rows);
                (Vec::new(), Ok(rows))
            }
        };
        let record = match (input, rows) {
            (Some(input), Ok(rows)) => Some(record::begin(step, input, rows, &logits, self.shape.vocab)),
            (_, Err(error)) => {
                // What is not recorded is missing in the evidence, and the session ends of it.
                tracing::error!(%error, "the rows of a last stage could not be had");
                None
            }
            (None, Ok(_)) => None,
        };
        let effects = self.table.step_done(now(), step, took, &mut logits, &mut self.scratch);
        if let Some(mut record) = record {
            record::choose(&mut record, &effects);
            self.gather(record);
        }
        let over = effects.iter().any(|effect| matches!(effect, Effect::Ended(..)));
        self.carry_out(effects);
        if over {
            self.publish();
        }
        self.metrics.step(step, took);
        self.metrics.batches.set(i64::from(self.table.batches()));
        self.metrics.chunk_rows.set(i64::from(self.table.chunk_rows()));
        if step.prefill_rows() == 0 {
            // Told as if the whole span had computed it.
            let whole = took * self.shape.span.len() / step.part.len().max(1);
            self.load.step_us.store(whole.as_micros() as u32, Ordering::Relaxed);
        }
    }

    fn fail(&mut self, step: &Step, error: &StageError) {
        self.metrics.step_failures.inc();
        for member in &step.members {
            tracing::error!(session = %member.key.session, %error, "step failed");
            let effects = self.table.step_failed(now(), member.key, error.to_string());
            self.carry_out(effects);
        }
        self.publish();
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Half the beat of ticks.
const SHORTEST_TICK: Duration = Duration::from_millis(50);
