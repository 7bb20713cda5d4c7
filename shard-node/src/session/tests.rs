//! Whole pipelines of session tables and toy stages in one thread, with a network that delays, doubles and reorders
//! across links, and every rule of order by itself.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use proto::activation::{Activations, RowGroup};
use proto::prefix::{TenantId, reusable_blocks};
use proto::session::{Finish, Open, Plan, PlanStage, SamplingParams, TailTerms};
use proto::status::{Refusal, RefusalCode};
use proto::tensor::{NumericsClass, WireDtype};
use proto::{Added, Generation, LayerSpan, ModelId, SessionId};
use shard_node_stage::{RowBudget, Stage, StageShape, StepOutput, ToyModel, ToyStage};

use super::table::{Admitted, Effect, LinkId, SessionTable, TableLimits};
use super::*;

mod ends;
mod pipelining;
mod reuse;

const MODEL: ToyModel = ToyModel { n_layers: 6, vocab: 64, context: 512 };
const LEASE_MS: u32 = 1000;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn router() -> NodeId {
    node(200)
}

fn id(number: u64) -> SessionId {
    SessionId::new(number)
}

fn spans(parts: u32) -> Vec<LayerSpan> {
    LayerSpan::split_evenly(MODEL.n_layers, parts).unwrap()
}

fn plan(parts: u32) -> Plan {
    let stages = spans(parts)
        .into_iter()
        .enumerate()
        .map(|(index, span)| PlanStage {
            node: node(index as u8),
            addr: "127.0.0.1:7401".parse().unwrap(),
            span,
        })
        .collect();
    Plan {
        model: ModelId::from_bytes([9; 32]),
        class: NumericsClass::Exact,
        n_layers: MODEL.n_layers,
        stages,
    }
}

fn open(parts: u32, stage: u32, session: u64, generation: u32, prompt: &[u32], max_tokens: u32) -> Open {
    let tail = TailTerms {
        history: prompt.to_vec(),
        generated: 0,
        sampling: SamplingParams::default(),
        eos: vec![],
        max_tokens,
    };
    Open {
        session: id(session),
        generation: Generation::new(generation),
        plan: plan(parts),
        stage: stage as u16,
        max_positions: prompt.len() as u32 + max_tokens,
        lease_ms: LEASE_MS,
        tail: (stage + 1 == parts).then_some(tail),
        service: Added::default(),
    }
}

fn table(stage: usize, shape: StageShape, budget: u32) -> SessionTable {
    let admission = Admission { own: node(stage as u8), model: ModelId::from_bytes([9; 32]), shape };
    let budget = RowBudget::new(budget);
    SessionTable::new(
        admission,
        TableLimits { kv_positions: 4096, prefix_positions: 1024, sessions: 64, budget, chunk_bytes: 32 * 7 },
    )
}

/// A pipeline whose parts are moved by hand.
struct Ring {
    now: Instant,
    stages: Vec<(SessionTable, ToyStage)>,
    /// Per hop: interactive and bulk.
    hops: Vec<[VecDeque<Activations>; 2]>,
    returns: VecDeque<Sampled>,
    reports: HashMap<SessionId, Vec<Report>>,
    scratch: Scratch,
    /// Sessions offer the blocks of their prompts.
    reuse: bool,
    /// Sessions are never split into batches.
    whole_batches: bool,
    /// Where the prompts of open sessions begin.
    starts: HashMap<u64, u32>,
}

impl Ring {
    fn new(parts: u32, budget: u32) -> Self {
        let stages: Vec<_> = spans(parts)
            .into_iter()
            .enumerate()
            .map(|(index, span)| {
                let stage = ToyStage::new(MODEL, span);
                (table(index, stage.shape(), budget), stage)
            })
            .collect();
        #[expect(clippy::disallowed_methods, reason = "the origin of the test's own time")]
        let now = Instant::now();
        Self {
            now,
            hops: vec![<[VecDeque<Activations>; 2]>::default(); stages.len()],
            stages,
            returns: VecDeque::new(),
            reports: HashMap::new(),
            scratch: Scratch::default(),
            reuse: false,
            whole_batches: false,
            starts: HashMap::new(),
        }
    }

    fn parts(&self) -> u32 {
        self.stages.len() as u32
    }

    fn open(
        &mut self,
        session: u64,
        generation: u32,
        prompt: &[u32],
        max_tokens: u32,
    ) -> Result<(), Refusal> {
        let mut start = u32::MAX;
        for stage in (0..self.stages.len()).rev() {
            let mut open = open(self.parts(), stage as u32, session, generation, prompt, max_tokens);
            if self.reuse {
                open.service.0.prefix = reusable_blocks(&TenantId::default(), prompt);
            }
            let (effects, admitted) = self.stages[stage].0.admit(self.now, router(), &open);
            self.carry_out(stage, effects);
            let Admitted { mut terms, rows, freed_after } = admitted?;
            let (table, toy) = &mut self.stages[stage];
            let slot = toy.open(terms.max_positions).unwrap();
            if let Some(rows) = rows {
                toy.copy(rows.slot, slot, Position::new(rows.positions)).unwrap();
                terms.reusable = rows.positions;
            }
            if let Some(slot) = freed_after {
                toy.close(slot);
            }
            start = start.min(terms.reusable);
            if self.whole_batches {
                terms.stages = 1;
            }
            table.insert(self.now, terms, slot, None);
            let key = SessionKey { router: router(), session: id(session) };
            assert!(table.attach(key, Generation::new(generation), LinkId(stage as u64)));
        }
        self.starts.insert(session, start);
        Ok(())
    }

    fn control(&mut self, stage: usize, session: u64, generation: u32, event: Event<'_>) {
        let key = SessionKey { router: router(), session: id(session) };
        let effects = self.stages[stage].0.control(self.now, key, Generation::new(generation), event);
        self.carry_out(stage, effects);
    }

    fn prompt(&mut self, session: u64, generation: u32, tokens: &[u32]) {
        let start = self.starts.get(&session).copied().unwrap_or(0);
        let event = Event::Tokens { start: Position::new(start), tokens: tokens[start as usize..].to_vec() };
        self.control(0, session, generation, event);
    }

    fn credit(&mut self, session: u64, generation: u32, run_until: u32) {
        self.control(0, session, generation, Event::Credit { run_until: Position::new(run_until) });
    }

    fn arrival(&self) -> Arrival {
        Arrival { received: self.now, under_way: Some(Duration::from_micros(30)) }
    }

    fn deliver(&mut self, hop: usize, bulk: bool, twice: bool) -> bool {
        let Some(frame) = self.hops[hop][usize::from(bulk)].pop_front() else { return false };
        for _ in 0..=usize::from(twice) {
            let (feeder, link, arrival) = (node(hop as u8), LinkId(100 + u64::from(bulk)), self.arrival());
            let effects = self.stages[hop + 1].0.rows(self.now, feeder, link, &frame, arrival, None);
            self.carry_out(hop + 1, effects);
        }
        true
    }

    fn deliver_return(&mut self, twice: bool) -> bool {
        let Some(sampled) = self.returns.pop_front() else { return false };
        for _ in 0..=usize::from(twice) {
            let (feeder, arrival) = (node(self.parts() as u8 - 1), self.arrival());
            let effects = self.stages[0].0.sampled(self.now, feeder, LinkId(99), sampled.clone(), arrival);
            self.carry_out(0, effects);
        }
        true
    }

    fn step(&mut self, stage: usize) -> bool {
        let Some(step) = self.begin(stage) else { return false };
        self.finish(stage, &step, Duration::from_millis(1));
        true
    }

    fn begin(&mut self, stage: usize) -> Option<Step> {
        self.stages[stage].0.next_step(self.now, false, |_| true)
    }

    fn finish(&mut self, stage: usize, step: &Step, took: Duration) {
        let (table, toy) = &mut self.stages[stage];
        let output = toy.step(&step.groups, step.input.clone()).unwrap();
        let mut logits = match output {
            StepOutput::Logits(logits) => logits,
            StepOutput::Activations(rows) => {
                for out in step.outgoing() {
                    assert_eq!(out.link, LinkId(stage as u64));
                    let frame = Activations {
                        dtype: WireDtype::F32,
                        hidden: 8,
                        sent_unix_ns: 0,
                        groups: out.groups,
                        rows: rows.slice(out.rows.start * 32..out.rows.end * 32),
                    };
                    self.hops[stage][usize::from(out.bulk)].push_back(frame);
                }
                Vec::new()
            }
        };
        let effects = table.step_done(self.now, step, took, &mut logits, &mut self.scratch);
        self.carry_out(stage, effects);
    }

    fn carry_out(&mut self, stage: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Return(_, sampled) => self.returns.push_back(sampled),
                Effect::Report(to, report) => {
                    assert_eq!(to, router());
                    let session = match &report {
                        Report::Sampled(s) => s.session,
                        Report::Progress(p) => p.session,
                        Report::Failed(f) => f.session,
                        Report::Ended(e) => e.session,
                    };
                    self.reports.entry(session).or_default().push(report);
                }
                Effect::Free(slot) => self.stages[stage].1.close(slot),
                Effect::Trim(slot, length) => self.stages[stage].1.trim(slot, length).unwrap(),
                Effect::Retain(slot, length) => self.stages[stage].1.retain(slot, length).unwrap(),
                Effect::Ended(..) => {}
            }
        }
    }

    fn run(&mut self) {
        loop {
            let mut moved = self.deliver_return(false);
            for stage in 0..self.stages.len() {
                moved |= self.step(stage);
                if stage + 1 < self.stages.len() {
                    moved |= self.deliver(stage, true, false) | self.deliver(stage, false, false);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn tokens(&self, session: u64) -> Vec<u32> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        reports.iter().filter_map(|r| if let Report::Sampled(s) = r { Some(s.token) } else { None }).collect()
    }

    fn tokens_of(&self, session: u64, generation: u32) -> Vec<u32> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        let of = |r: &Report| match r {
            Report::Sampled(s) if s.generation.get() == generation => Some(s.token),
            _ => None,
        };
        reports.iter().filter_map(of).collect()
    }

    /// A stage's process dies and another one takes its place, with nothing of what it knew; its neighbours notice.
    fn replace(&mut self, stage: usize, budget: u32) {
        let toy = ToyStage::new(MODEL, spans(self.parts())[stage]);
        self.stages[stage] = (table(stage, toy.shape(), budget), toy);
        for other in (0..self.stages.len()).filter(|&other| other != stage) {
            let mut effects =
                self.stages[other].0.feeder_lost(self.now, node(stage as u8), LinkId(100), true);
            if (other + 1) % self.stages.len() == stage {
                let link = LinkId(other as u64);
                effects.extend(self.stages[other].0.link_lost(self.now, node(stage as u8), link));
            }
            self.carry_out(other, effects);
        }
        // What was under way from and to it is lost.
        for hop in [stage.checked_sub(1), Some(stage)].into_iter().flatten() {
            self.hops[hop] = <[VecDeque<Activations>; 2]>::default();
        }
        if stage == 0 || stage + 1 == self.stages.len() {
            self.returns.clear();
        }
    }

    fn failures(&self, session: u64) -> Vec<(CloseCode, Option<NodeId>)> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        reports
            .iter()
            .filter_map(|r| if let Report::Failed(f) = r { Some((f.code, f.lost)) } else { None })
            .collect()
    }

    fn ended(&self, session: u64) -> Vec<Ended> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        reports.iter().filter_map(|r| if let Report::Ended(e) = r { Some(*e) } else { None }).collect()
    }

    fn assert_empty(&self) {
        for (table, toy) in &self.stages {
            assert!(table.is_empty() && table.ledger().is_empty() && table.waiting_rows() == 0);
            let bytes = toy.shape().kv_bytes_per_position;
            assert_eq!(toy.kv_bytes(), table.prefixes().positions() * bytes, "nothing but what is kept");
        }
    }
}

#[derive(Debug, Clone)]
struct Asked {
    prompt: Vec<u32>,
    max_tokens: u32,
}

fn asked() -> impl Strategy<Value = Asked> {
    (prop::collection::vec(0u32..64, 1..40), 1u32..12)
        .prop_map(|(prompt, max_tokens)| Asked { prompt, max_tokens })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the interleaving of steps, deliveries and credit, and with frames doubled, each session's answer is
    /// the model's, and nothing is left behind.
    #[test]
    fn any_interleaving_gives_the_models_answer(
        parts in 1u32..5,
        budget in 1u32..20,
        sessions in prop::collection::vec(asked(), 1..5),
        moves in prop::collection::vec((0u8..6, any::<u8>(), any::<bool>()), 0..400),
    ) {
        let mut ring = Ring::new(parts, budget);
        for (number, asked) in sessions.iter().enumerate() {
            ring.open(number as u64, 0, &asked.prompt, asked.max_tokens).unwrap();
            ring.prompt(number as u64, 0, &asked.prompt);
            if number % 2 == 0 {
                ring.prompt(number as u64, 0, &asked.prompt);
            }
        }
        for (kind, which, twice) in moves {
            let stage = usize::from(which) % ring.stages.len();
            let hop = usize::from(which) % ring.stages.len().saturating_sub(1).max(1);
            match kind {
                0 | 1 => drop(ring.step(stage)),
                2 if parts > 1 => drop(ring.deliver(hop, true, twice)),
                3 if parts > 1 => drop(ring.deliver(hop, false, twice)),
                4 => drop(ring.deliver_return(twice)),
                _ => {
                    let number = usize::from(which) % sessions.len();
                    let end = sessions[number].prompt.len() as u32;
                    ring.credit(number as u64, 0, end + u32::from(which) % 8);
                }
            }
        }
        for number in 0..sessions.len() {
            ring.credit(number as u64, 0, u32::MAX);
        }
        ring.run();
        for (number, asked) in sessions.iter().enumerate() {
            prop_assert_eq!(ring.failures(number as u64), vec![]);
            prop_assert_eq!(ring.tokens(number as u64), MODEL.answer(&asked.prompt, asked.max_tokens as usize));
            for stage in 0..ring.stages.len() {
                ring.control(stage, number as u64, 0, Event::Close(CloseCode::Finished));
            }
        }
        ring.assert_empty();
    }
}

#[test]
fn nothing_runs_beyond_credit() {
    let mut ring = Ring::new(3, 8);
    ring.open(1, 0, &[1, 2, 3], 20).unwrap();
    ring.prompt(1, 0, &[1, 2, 3]);
    ring.run();
    assert_eq!(ring.tokens(1).len(), 1, "the prompt gives one token");
    ring.credit(1, 0, 5);
    ring.run();
    assert_eq!(ring.tokens(1).len(), 3, "rows 3 and 4 ran");
    ring.credit(1, 0, 4);
    ring.run();
    assert_eq!(ring.tokens(1).len(), 3, "credit does not shrink and does not run twice");
    ring.credit(1, 0, 100);
    ring.run();
    assert_eq!(ring.tokens(1), MODEL.answer(&[1, 2, 3], 20));
}

#[test]
fn eos_and_length_end_the_answer() {
    let answer = MODEL.answer(&[7], 8);
    let mut ring = Ring::new(2, 8);
    let eos = answer[3];
    let first = answer.iter().position(|&token| token == eos).unwrap();
    for stage in [1, 0] {
        let mut open = open(2, stage, 1, 0, &[7], 8);
        if let Some(tail) = &mut open.tail {
            tail.eos = vec![eos];
        }
        let terms = ring.stages[stage as usize].0.admit(ring.now, router(), &open).1.unwrap().terms;
        let key = terms.key;
        let slot = ring.stages[stage as usize].1.open(16).unwrap();
        ring.stages[stage as usize].0.insert(ring.now, terms, slot, None);
        ring.stages[stage as usize].0.attach(key, Generation::new(0), LinkId(u64::from(stage)));
    }
    ring.prompt(1, 0, &[7]);
    ring.credit(1, 0, 100);
    ring.run();
    assert_eq!(ring.tokens(1), answer[..=first]);
    let Some(Report::Sampled(last)) = ring.reports[&id(1)].last() else { panic!("a token") };
    assert_eq!(last.finish, Finish::Eos);
}

#[test]
fn a_newer_generation_takes_over_and_older_frames_are_dropped() {
    let mut ring = Ring::new(2, 64);
    ring.open(1, 0, &[1, 2, 3], 9).unwrap();
    ring.prompt(1, 0, &[1, 2, 3]);
    ring.step(0);
    assert_eq!(ring.hops[0][1].len(), 1, "a frame of generation 0 is under way");
    ring.open(1, 1, &[1, 2, 3], 9).unwrap();
    ring.prompt(1, 0, &[5, 5, 5]);
    ring.prompt(1, 1, &[1, 2, 3]);
    ring.credit(1, 1, 100);
    ring.run();
    assert_eq!(ring.tokens(1), MODEL.answer(&[1, 2, 3], 9));
    assert_eq!(ring.stages[1].0.late_rows(), 3);
    for generation in [0, 1] {
        let refusal = ring.open(1, generation, &[1], 1).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Stale);
    }
    assert_eq!(ring.stages[0].0.len(), 1);
}

#[test]
fn a_close_that_overtakes_the_open_leaves_a_tombstone() {
    let mut ring = Ring::new(1, 8);
    ring.control(0, 1, 0, Event::Close(CloseCode::Cancelled));
    assert_eq!(ring.open(1, 0, &[1], 1).unwrap_err().code, RefusalCode::Stale);
    ring.open(1, 1, &[1], 1).unwrap();
    ring.now += Duration::from_secs(61);
    let effects = ring.stages[0].0.tick(ring.now);
    ring.carry_out(0, effects);
    assert_eq!(ring.stages[0].0.tombstones(), 1, "the lease ended too: one new tombstone");
    ring.now += Duration::from_secs(2);
    ring.stages[0].0.tick(ring.now);
    assert_eq!(ring.stages[0].0.tombstones(), 0);
}

#[test]
fn a_gap_a_flood_and_a_foreign_frame_end_the_session() {
    let group = |start, rows, prefill| RowGroup {
        session: id(1),
        generation: Generation::new(0),
        start: Position::new(start),
        rows,
        sample: true,
        prefill,
    };
    let cases: [(&str, Vec<RowGroup>); 4] = [
        ("a gap", vec![group(1, 1, true)]),
        ("beyond the reservation", vec![group(0, 11, true)]),
        ("two decode rows", vec![group(0, 1, false), group(1, 1, false)]),
        ("a decode frame of two rows", vec![group(0, 2, false)]),
    ];
    for (what, groups) in cases {
        let mut ring = Ring::new(2, 8);
        ring.open(1, 0, &[1, 2], 8).unwrap();
        let rows = groups.iter().map(|group| group.rows as usize).sum::<usize>();
        let frame = Activations {
            dtype: WireDtype::F32,
            hidden: 8,
            sent_unix_ns: 0,
            groups,
            rows: Bytes::from(vec![0; rows * 32]),
        };
        ring.hops[0][0].push_back(frame);
        ring.deliver(0, false, false);
        assert_eq!(ring.failures(1), [(CloseCode::Protocol, None)], "{what}");
        assert!(ring.stages[1].0.is_empty(), "{what}");
    }
    let mut ring = Ring::new(2, 8);
    ring.open(1, 0, &[1, 2], 8).unwrap();
    ring.prompt(1, 0, &[1, 64]);
    assert_eq!(ring.failures(1), [(CloseCode::Protocol, None)], "a token outside the vocabulary");
    ring.control(1, 1, 0, Event::Tokens { start: Position::new(0), tokens: vec![1] });
    assert_eq!(ring.failures(1).len(), 2, "tokens for a tail");
    ring.assert_empty();
}

#[test]
fn another_router_and_another_feeder_touch_nothing() {
    let mut ring = Ring::new(2, 8);
    ring.open(1, 0, &[1, 2], 4).unwrap();
    let foreign = SessionKey { router: node(201), session: id(1) };
    for event in [
        Event::Close(CloseCode::Cancelled),
        Event::Credit { run_until: Position::new(9) },
        Event::Tokens { start: Position::new(0), tokens: vec![9] },
    ] {
        assert_eq!(ring.stages[0].0.control(ring.now, foreign, Generation::new(0), event), vec![]);
    }
    let sampled = Sampled {
        session: id(1),
        generation: Generation::new(0),
        position: Position::new(2),
        token: 1,
        logprob: 0.0,
        margin: 0.0,
        finish: Finish::No,
        top: Added::default(),
    };
    let arrival = ring.arrival();
    assert_eq!(ring.stages[0].0.sampled(ring.now, node(77), LinkId(5), sampled, arrival), vec![]);
    let refusal = ring.stages[0].0.admit(ring.now, node(202), &open(2, 0, 1, 0, &[1], 1)).1.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::BadPlan, "{refusal}");
    ring.prompt(1, 0, &[1, 2]);
    ring.credit(1, 0, 100);
    ring.run();
    assert_eq!(ring.tokens(1), MODEL.answer(&[1, 2], 4));
}
