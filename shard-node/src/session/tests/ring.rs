//! A pipeline whose parts are moved by hand, and the openings that are asked of it.

use super::*;

pub(super) const MODEL: ToyModel = ToyModel { n_layers: 6, vocab: 64, context: 512 };
pub(super) const LEASE_MS: u32 = 1000;

pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

pub(super) fn router() -> NodeId {
    node(200)
}

pub(super) fn id(number: u64) -> SessionId {
    SessionId::new(number)
}

pub(super) fn spans(parts: u32) -> Vec<LayerSpan> {
    LayerSpan::split_evenly(MODEL.n_layers, parts).unwrap()
}

pub(super) fn plan(parts: u32) -> Plan {
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

pub(super) fn open(
    parts: u32,
    stage: u32,
    session: u64,
    generation: u32,
    prompt: &[u32],
    max_tokens: u32,
) -> Open {
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

pub(super) fn table(stage: usize, shape: StageShape, budget: u32) -> SessionTable {
    let admission = Admission { own: node(stage as u8), model: ModelId::from_bytes([9; 32]), shape };
    SessionTable::new(admission, limits(budget))
}

pub(super) fn limits(budget: u32) -> TableLimits {
    TableLimits {
        kv_positions: 4096,
        prefix_positions: 1024,
        boundary_bytes: 1 << 20,
        sessions: 64,
        budget: RowBudget::new(budget),
        chunk_bytes: 32 * 7,
    }
}

/// A pipeline whose parts are moved by hand.
pub(super) struct Ring {
    pub(super) now: Instant,
    pub(super) stages: Vec<(SessionTable, ToyStage)>,
    /// Per hop: interactive and bulk.
    pub(super) hops: Vec<[VecDeque<Activations>; 2]>,
    pub(super) returns: VecDeque<Sampled>,
    pub(super) reports: HashMap<SessionId, Vec<Report>>,
    pub(super) scratch: Scratch,
    /// Sessions offer the blocks of their prompts.
    pub(super) reuse: bool,
    /// Sessions are never split into batches.
    pub(super) whole_batches: bool,
    /// Where the prompts of open sessions begin.
    pub(super) starts: HashMap<u64, u32>,
}

impl Ring {
    pub(super) fn new(parts: u32, budget: u32) -> Self {
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

    pub(super) fn parts(&self) -> u32 {
        self.stages.len() as u32
    }

    pub(super) fn open(
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
            start = start.min(self.place(stage, &open)?);
        }
        self.starts.insert(session, start);
        Ok(())
    }

    /// Opens the next generation behind the tokens that `came`, as a router does.
    pub(super) fn resume(
        &mut self,
        session: u64,
        generation: u32,
        (prompt, came): (&[u32], &[u32]),
        max_tokens: u32,
    ) -> Result<(), Refusal> {
        // The last generation that gave a token.
        let since = (0..generation).rev().find(|&earlier| !self.tokens_of(session, earlier).is_empty());
        let forced = [prompt, came].concat();
        let rows = forced.len() as u32 - 1;
        let mut downstream = rows;
        for stage in (0..self.stages.len()).rev() {
            let mut open = open(self.parts(), stage as u32, session, generation, prompt, max_tokens);
            if let Some(tail) = &mut open.tail {
                (tail.history, tail.generated) = (forced.clone(), came.len() as u32);
            }
            if self.reuse {
                open.service.0.prefix = reusable_blocks(&TenantId::default(), &forced);
            }
            open.service.0.further.0.resume =
                Added(ResumeTerms { rows, downstream, since: since.unwrap_or(0), role: Added::default() });
            downstream = self.place(stage, &open)?;
        }
        self.starts.insert(session, downstream);
        self.prompt(session, generation, &forced);
        Ok(())
    }

    /// Opens a session on one stage; where it goes on.
    fn place(&mut self, stage: usize, open: &Open) -> Result<u32, Refusal> {
        let (effects, admitted) = self.stages[stage].0.admit(self.now, router(), open);
        self.carry_out(stage, effects);
        let Admitted { mut terms, rows, freed_after, kept } = admitted?;
        let (table, toy) = &mut self.stages[stage];
        let slot = kept.unwrap_or_else(|| toy.open(terms.max_positions).unwrap());
        if let Some(rows) = rows {
            toy.copy(rows.slot, slot, Position::new(rows.positions)).unwrap();
            terms.reusable = rows.positions;
        }
        if let Some(slot) = freed_after {
            toy.close(slot);
        }
        if self.whole_batches {
            terms.stages = 1;
        }
        let (key, generation, reusable) = (terms.key, terms.generation, terms.reusable);
        table.insert(self.now, terms, slot, None);
        assert!(table.attach(key, generation, LinkId(stage as u64)));
        Ok(reusable)
    }

    pub(super) fn control(&mut self, stage: usize, session: u64, generation: u32, event: Event<'_>) {
        let key = SessionKey { router: router(), session: id(session) };
        let effects = self.stages[stage].0.control(self.now, key, Generation::new(generation), event);
        self.carry_out(stage, effects);
    }

    pub(super) fn prompt(&mut self, session: u64, generation: u32, tokens: &[u32]) {
        let start = self.starts.get(&session).copied().unwrap_or(0);
        let event = Event::Tokens { start: Position::new(start), tokens: tokens[start as usize..].to_vec() };
        self.control(0, session, generation, event);
    }

    pub(super) fn credit(&mut self, session: u64, generation: u32, run_until: u32) {
        self.control(0, session, generation, Event::Credit { run_until: Position::new(run_until) });
    }

    pub(super) fn arrival(&self) -> Arrival {
        Arrival { received: self.now, under_way: Some(Duration::from_micros(30)) }
    }

    pub(super) fn deliver(&mut self, hop: usize, bulk: bool, twice: bool) -> bool {
        let Some(frame) = self.hops[hop][usize::from(bulk)].pop_front() else { return false };
        for _ in 0..=usize::from(twice) {
            let (feeder, link, arrival) = (node(hop as u8), LinkId(100 + u64::from(bulk)), self.arrival());
            let effects = self.stages[hop + 1].0.rows(self.now, feeder, link, &frame, arrival, None);
            self.carry_out(hop + 1, effects);
        }
        true
    }

    pub(super) fn deliver_return(&mut self, twice: bool) -> bool {
        let Some(sampled) = self.returns.pop_front() else { return false };
        for _ in 0..=usize::from(twice) {
            let (feeder, arrival) = (node(self.parts() as u8 - 1), self.arrival());
            let effects = self.stages[0].0.sampled(self.now, feeder, LinkId(99), sampled.clone(), arrival);
            self.carry_out(0, effects);
        }
        true
    }

    pub(super) fn step(&mut self, stage: usize) -> bool {
        let replayed = self.replay(stage);
        let Some(step) = self.begin(stage) else { return replayed };
        self.finish(stage, &step, Duration::from_millis(1));
        true
    }

    /// Sends one frame of rows once more.
    pub(super) fn replay(&mut self, stage: usize) -> bool {
        let Some(Replayed { link, row, rows, .. }) = self.stages[stage].0.next_replay(|_| true) else {
            return false;
        };
        assert_eq!(link, LinkId(stage as u64));
        let groups = vec![row];
        let frame = Activations { dtype: WireDtype::F32, hidden: 8, sent_unix_ns: 0, groups, rows };
        self.hops[stage][1].push_back(frame);
        true
    }

    pub(super) fn begin(&mut self, stage: usize) -> Option<Step> {
        self.stages[stage].0.next_step(self.now, false, |_| true)
    }

    pub(super) fn finish(&mut self, stage: usize, step: &Step, took: Duration) {
        let (table, toy) = &mut self.stages[stage];
        let output = toy.step(&step.groups, step.input.clone()).unwrap();
        let mut logits = match output {
            StepOutput::Logits(logits) => logits,
            StepOutput::Activations(rows) => {
                table.remember(step, &rows);
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

    pub(super) fn carry_out(&mut self, stage: usize, effects: Vec<Effect>) {
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
                Effect::Chosen(..) | Effect::Ended(..) => {}
            }
        }
    }

    pub(super) fn run(&mut self) {
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

    pub(super) fn tokens(&self, session: u64) -> Vec<u32> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        reports.iter().filter_map(|r| if let Report::Sampled(s) = r { Some(s.token) } else { None }).collect()
    }

    pub(super) fn tokens_of(&self, session: u64, generation: u32) -> Vec<u32> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        let of = |r: &Report| match r {
            Report::Sampled(s) if s.generation.get() == generation => Some(s.token),
            _ => None,
        };
        reports.iter().filter_map(of).collect()
    }

    /// A stage's process dies and another one takes its place, with nothing of what it knew; its neighbours notice.
    pub(super) fn replace(&mut self, stage: usize, budget: u32) {
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

    pub(super) fn failures(&self, session: u64) -> Vec<(CloseCode, Option<NodeId>)> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        reports
            .iter()
            .filter_map(|r| if let Report::Failed(f) = r { Some((f.code, f.lost)) } else { None })
            .collect()
    }

    pub(super) fn ended(&self, session: u64) -> Vec<Ended> {
        let reports = self.reports.get(&id(session)).map_or(&[][..], Vec::as_slice);
        reports.iter().filter_map(|r| if let Report::Ended(e) = r { Some(*e) } else { None }).collect()
    }

    /// Nobody comes for what is kept of broken sessions.
    pub(super) fn expire(&mut self) {
        self.now += Duration::from_secs(10);
        for stage in 0..self.stages.len() {
            let effects = self.stages[stage].0.tick(self.now);
            self.carry_out(stage, effects);
        }
    }

    pub(super) fn assert_empty(&mut self) {
        self.expire();
        for (table, toy) in &self.stages {
            assert_eq!((table.recovered().parked_positions, table.recovered().boundary_bytes), (0, 0));
            assert!(table.is_empty() && table.ledger().is_empty() && table.waiting_rows() == 0);
            let bytes = toy.shape().kv_bytes_per_position;
            assert_eq!(toy.kv_bytes(), table.prefixes().positions() * bytes, "nothing but what is kept");
        }
    }
}
