//! Stages at work at the same time, in virtual time: what a step costs is given, what comes out is counted.

use super::*;

/// What a step costs.
#[derive(Clone, Copy)]
struct Machine {
    fixed_us: u64,
    row_us: u64,
    /// All stages on one machine: as many times slower as stages are at work.
    shared: bool,
}

impl Machine {
    fn step(self, rows: u32, at_work: usize) -> Duration {
        let alone = Duration::from_micros(self.fixed_us + self.row_us * u64::from(rows));
        if self.shared { alone * at_work as u32 } else { alone }
    }
}

/// A pipeline whose stages compute side by side.
struct Line {
    ring: Ring,
    machine: Machine,
    at_work: Vec<Option<(Instant, Duration, Step)>>,
    /// Virtual time that stages were at work.
    busy: Duration,
    random: u64,
}

impl Line {
    fn new(parts: u32, sessions: u64, tokens: u32, machine: Machine) -> Self {
        let mut ring = Ring::new(parts, 128);
        for session in 0..sessions {
            let prompt = [session as u32 % 64, 1, 2];
            ring.open(session, 0, &prompt, tokens).unwrap();
            ring.prompt(session, 0, &prompt);
            ring.credit(session, 0, u32::MAX);
        }
        let at_work = ring.stages.iter().map(|_| None).collect();
        Self { ring, machine, at_work, busy: Duration::ZERO, random: 0x5eed }
    }

    /// No two steps take the same time: within a twentieth.
    fn jitter(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        0.95 + (self.random % 1000) as f64 / 10_000.0
    }

    /// One step ends; `false` if none is under way.
    fn next(&mut self) -> bool {
        for stage in 0..self.at_work.len() {
            while self.ring.deliver_return(false) {}
            if stage > 0 {
                while self.ring.deliver(stage - 1, true, false) || self.ring.deliver(stage - 1, false, false)
                {
                }
            }
            if self.at_work[stage].is_none()
                && let Some(step) = self.ring.begin(stage)
            {
                let others = self.at_work.iter().flatten().count();
                let took = self.machine.step(step.rows(), others + 1).mul_f64(self.jitter());
                self.busy += took;
                self.at_work[stage] = Some((self.ring.now + took, took, step));
            }
        }
        let ends =
            self.at_work.iter().enumerate().filter_map(|(stage, work)| Some((work.as_ref()?.0, stage)));
        let Some((_, stage)) = ends.min() else { return false };
        let Some((end, took, step)) = self.at_work[stage].take() else { return false };
        self.ring.now = end;
        self.ring.finish(stage, &step, took);
        true
    }

    fn tokens(&self) -> usize {
        self.ring.reports.values().flatten().filter(|report| matches!(report, Report::Sampled(_))).count()
    }

    /// Runs until so many tokens have come.
    fn until(&mut self, tokens: usize) {
        while self.tokens() < tokens {
            assert!(self.next(), "{} of {tokens} tokens", self.tokens());
        }
    }

    /// Tokens a second and the mean number of stages at work, from `from` tokens on until `to`.
    fn rate(&mut self, from: usize, to: usize) -> (f64, f64) {
        self.until(from);
        let (begun, busy) = (self.ring.now, self.busy);
        self.until(to);
        let seconds = (self.ring.now - begun).as_secs_f64();
        ((to - from) as f64 / seconds, self.busy.saturating_sub(busy).as_secs_f64() / seconds)
    }
}

/// Tokens a second and stages at work of `sessions` in four stages, when it has settled.
fn settled(sessions: u64, machine: Machine) -> (f64, f64) {
    let tokens = 4096 / sessions as u32 - 4;
    let tokens = tokens.min(400);
    let all = sessions as usize * tokens as usize;
    let mut line = Line::new(4, sessions, tokens, machine);
    let figures = line.rate(all * 6 / 10, all * 9 / 10);
    let batches = line.ring.stages[0].0.batches();
    println!("{sessions} sessions in {batches}: {:.0} tokens/s, {:.2} stages at work", figures.0, figures.1);
    figures
}

#[test]
fn steps_of_a_fixed_time_overlap_and_no_session_waits() {
    let machine = Machine { fixed_us: 10_000, row_us: 0, shared: false };
    for sessions in [1, 2, 4, 8, 16] {
        let (rate, _) = settled(sessions, machine);
        // A session's token takes four steps; nobody can do better, as many as there are.
        let most = sessions as f64 / 0.040;
        assert!(rate >= 0.9 * most, "{sessions} sessions: {rate} of {most} tokens/s");
    }
}

#[test]
fn where_rows_cost_time_all_stages_are_at_work() {
    let machine = Machine { fixed_us: 2_000, row_us: 1_000, shared: false };
    for sessions in [4u64, 8, 16] {
        let (rate, at_work) = settled(sessions, machine);
        let step = machine.step(sessions as u32 / 4, 1).as_secs_f64();
        let most = sessions as f64 / (4.0 * step);
        assert!(rate >= 0.9 * most, "{sessions} sessions: {rate} of {most} tokens/s");
        // Trials of fewer batches are in it.
        assert!(at_work >= 0.85 * 4.0, "{sessions} sessions: {at_work} stages at work");
    }
}

#[test]
fn on_one_shared_machine_sessions_gather_in_one_batch() {
    let machine = Machine { fixed_us: 4_000, row_us: 500, shared: true };
    for sessions in [8u64, 16] {
        let (rate, _) = settled(sessions, machine);
        let most = sessions as f64 / (4.0 * machine.step(sessions as u32, 1).as_secs_f64());
        assert!(rate >= 0.85 * most, "{sessions} sessions: {rate} of {most} tokens/s");
    }
}

#[test]
fn rows_of_all_sessions_for_one_neighbour_travel_in_one_frame() {
    let mut ring = Ring { whole_batches: true, ..Ring::new(2, 64) };
    for session in 0..20 {
        ring.open(session, 0, &[1, 2], 8).unwrap();
        ring.prompt(session, 0, &[1, 2]);
    }
    ring.run();
    (0..20).for_each(|session| ring.credit(session, 0, 3));
    assert!(ring.step(0) && !ring.step(0));
    assert_eq!(ring.hops[0][0].len(), 1);
    assert_eq!(ring.hops[0][0][0].groups.len(), 20);
    // Decode rows and the chunk of a prompt go by a connection each.
    (0..20).for_each(|session| ring.credit(session, 0, 4));
    ring.run();
    (0..20).for_each(|session| ring.credit(session, 0, 5));
    ring.open(50, 0, &[1; 30], 8).unwrap();
    ring.prompt(50, 0, &[1; 30]);
    assert!(ring.step(0));
    assert_eq!([ring.hops[0][0].len(), ring.hops[0][1].len()], [1, 1]);
}

#[test]
fn a_long_prompt_is_cut_for_those_who_decode_and_only_for_them() {
    let mut ring = Ring::new(1, 128);
    let slow = |step: &Step| Duration::from_millis(20 + 4 * u64::from(step.prefill_rows()));
    let run = |ring: &mut Ring| {
        let mut chunks = Vec::new();
        while let Some(step) = ring.begin(0) {
            let took = slow(&step);
            ring.now += took;
            ring.finish(0, &step, took);
            chunks.extend((step.prefill_rows() > 0).then_some((step.prefill_rows(), took)));
        }
        chunks
    };
    ring.stages[0].0 = {
        let shape = ring.stages[0].1.shape();
        let admission = Admission { own: node(0), model: ModelId::from_bytes([9; 32]), shape };
        let budget = RowBudget::new(128);
        let limits = TableLimits {
            kv_positions: 4096,
            prefix_positions: 0,
            boundary_bytes: 0,
            sessions: 64,
            budget,
            chunk_bytes: 1 << 20,
        };
        SessionTable::new(admission, limits)
    };
    let prompt: Vec<u32> = (0..400).map(|at| at % 64).collect();
    ring.open(1, 0, &prompt, 4).unwrap();
    ring.prompt(1, 0, &prompt);
    assert_eq!(run(&mut ring)[0].0, 128, "nobody waits for it");
    ring.open(2, 0, &[1], 300).unwrap();
    ring.prompt(2, 0, &[1]);
    ring.credit(2, 0, u32::MAX);
    for _ in 0..40 {
        let step = ring.begin(0).unwrap();
        ring.now += slow(&step);
        ring.finish(0, &step, slow(&step));
    }
    ring.open(3, 0, &prompt, 4).unwrap();
    ring.prompt(3, 0, &prompt);
    let chunks = run(&mut ring);
    let settled = &chunks[2..chunks.len() - 1];
    assert!(settled.iter().all(|&(_, took)| took <= Duration::from_millis(200)), "{chunks:?}");
    assert!(settled.iter().all(|&(rows, _)| rows >= 16 && rows.is_multiple_of(16)), "{chunks:?}");
}
