//! The state machine itself: one method per transition. How it ends is in `machine/ends.rs`.

mod ends;

use std::sync::Arc;
use std::time::Duration;

use proto::Position;
use proto::session::{Credit, Ended, Finish, Opened, Sampled, Tokens};
use proto::status::{CloseCode, RefusalCode};

use super::credit::CreditLine;
use super::health::{StageHealth, Stall};
use super::standby::Standbys;
use super::{
    Action, Control, Event, FinishReason, OpenFailure, Outcome, Report, SessionError, SessionTerms, Watch,
};

/// A session's rules. Times count from its creation.
#[derive(Debug)]
pub struct SessionMachine {
    terms: Arc<SessionTerms>,
    state: State,
    credit: CreditLine,
    health: Vec<StageHealth>,
    /// Tokens received.
    received: u32,
    /// Where the prompt goes on: in a first generation the fewest positions that a stage that has opened can reuse, in
    /// a later one what the last stage that opened said, as it knows of the one behind it.
    begin: u32,
    /// Where each stage goes on, as it answered.
    held: Vec<u32>,
    accounts: Vec<Option<Ended>>,
    /// Stages that no account can be had of.
    gone: Vec<bool>,
    renewed: Duration,
    standbys: Standbys,
    /// What stages were closed with, once they were.
    closed_with: Option<CloseCode>,
}

#[derive(Debug, PartialEq)]
enum State {
    /// Not started.
    Waiting,
    /// `next` is being asked; all behind it have opened.
    Opening { next: usize, asked: Duration },
    /// Tokens come.
    Running,
    /// Only accounts are waited for.
    Closing { until: Duration },
    /// Over.
    Done,
}

impl SessionMachine {
    /// A session that has not started. The plan must tile the model and the prompt hold at least one token.
    pub fn new(terms: impl Into<Arc<SessionTerms>>) -> Self {
        let terms = terms.into();
        let stages = terms.stages().len();
        Self {
            credit: CreditLine::new(terms.first_position(), terms.credit),
            health: vec![StageHealth::new(Duration::ZERO); stages],
            held: vec![0; stages],
            accounts: vec![None; stages],
            gone: vec![false; stages],
            received: 0,
            begin: u32::MAX,
            renewed: Duration::ZERO,
            standbys: Standbys::new(&terms),
            closed_with: None,
            state: State::Waiting,
            terms,
        }
    }

    /// What the session was opened with.
    pub fn terms(&self) -> &SessionTerms {
        &self.terms
    }

    /// Whether nothing more will come of it.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// When the next [`Event::Tick`] is due, if nothing happens before.
    pub fn next_tick(&self) -> Option<Duration> {
        let total = self.terms.limits.total;
        match self.state {
            State::Waiting | State::Done => None,
            State::Opening { asked, .. } => Some(min(asked + self.terms.limits.open, total)),
            State::Running => {
                let watched = (0..self.health.len()).filter_map(|stage| self.asked_at(stage));
                let stalls =
                    self.health.iter().map(|health| self.stall_deadline(health).0).chain(watched).min();
                let lease = self.renewed + self.terms.limits.lease / RENEWALS_PER_LEASE;
                Some(min(min(lease, stalls), total))
            }
            State::Closing { until } => Some(until),
        }
    }

    /// The router's own clock jumped or its thread slept for so long: no stage is to blame for silence meanwhile.
    pub fn forgive(&mut self, slept: Duration) {
        for health in &mut self.health {
            health.forgive(slept);
        }
    }

    /// Takes an event and says what is to be done.
    pub fn on_event(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Start if self.state == State::Waiting => self.ask(now, self.last(), &mut actions),
            Event::OpenAnswered { stage, answer } if stage > self.last() => {
                self.standbys.answered(&self.terms, self.closed_with, stage, &answer, &mut actions);
                self.finish_if_accounted(&mut actions);
            }
            Event::Reported { stage, report } if stage > self.last() => {
                self.standbys.reported(stage, &report);
            }
            Event::LinkLost { stage, .. } if stage > self.last() => self.standbys.lost(stage),
            Event::OpenAnswered { stage, answer } => self.answered(now, stage, answer, &mut actions),
            Event::Reported { stage, report } => self.reported(now, stage, report, &mut actions),
            Event::LinkLost { stage, why } => self.link_lost(now, stage, why, &mut actions),
            Event::Probed { stage, alive } => self.probed(now, stage, alive, &mut actions),
            Event::Consumed { tokens } if self.state == State::Running => {
                if let Some(run_until) = self.credit.consumed(tokens.min(self.received)) {
                    actions.push(self.send_credit(0, run_until));
                }
            }
            Event::NotAttested { stage, what } => {
                let error = SessionError::Violation { stage: self.terms.label(stage), what };
                self.fail(now, error, &mut actions);
            }
            Event::Satisfied => {
                self.conclude(now, Outcome::Finished(FinishReason::Stop), CloseCode::Finished, &mut actions);
            }
            Event::Cancelled => self.conclude(now, Outcome::Cancelled, CloseCode::Cancelled, &mut actions),
            Event::Superseded => {
                self.conclude(now, Outcome::Superseded, CloseCode::Superseded, &mut actions);
            }
            Event::Tick => self.tick(now, &mut actions),
            Event::Start | Event::Consumed { .. } => {}
        }
        actions
    }

    fn ask(&mut self, now: Duration, stage: usize, actions: &mut Vec<Action>) {
        self.state = State::Opening { next: stage, asked: now };
        actions.push(Action::Open { stage, open: Box::new(self.terms.open(stage, self.begin)) });
    }

    fn answered(
        &mut self,
        now: Duration,
        stage: usize,
        answer: Result<Opened, OpenFailure>,
        actions: &mut Vec<Action>,
    ) {
        let State::Opening { next, .. } = self.state else { return };
        if next != stage {
            return;
        }
        let label = self.terms.label(stage);
        match answer {
            Err(OpenFailure::Refused(refusal)) if refusal.code == RefusalCode::HopUnreachable => {
                self.gone[stage] = true;
                let next = self.terms.label((stage + 1) % self.terms.stages().len());
                let error =
                    SessionError::Parted { stage: next, by: Box::new(label), why: refusal.to_string() };
                self.fail(now, error, actions);
            }
            Err(OpenFailure::Refused(refusal)) => {
                self.gone[stage] = true;
                self.fail(now, SessionError::Refused { stage: label, refusal }, actions);
            }
            Err(OpenFailure::Unreachable(why)) => {
                self.fail(now, SessionError::Unreachable { stage: label, why }, actions);
            }
            Ok(opened)
                if opened.session != self.terms.session || opened.generation != self.terms.generation =>
            {
                let what = "it answered for another session".into();
                self.fail(now, SessionError::Violation { stage: label, what }, actions);
            }
            Ok(opened) if opened.digest != self.terms.plan.digest() => {
                self.fail(now, SessionError::WrongDigest { stage: label }, actions);
            }
            Ok(opened) if !self.terms.may_begin_at(*opened.reusable) => {
                let what =
                    format!("it holds {} positions, which is more than it was offered", *opened.reusable);
                self.fail(now, SessionError::Violation { stage: label, what }, actions);
            }
            Ok(opened) => {
                let held = *opened.reusable;
                self.held[stage] = held;
                self.begin = if self.terms.resumable() > 0 { held } else { self.begin.min(held) };
                if stage > 0 {
                    self.ask(now, stage - 1, actions);
                } else {
                    self.run(now, actions);
                }
            }
        }
    }

    /// All stages are open: the prompt goes out, and with it the first credit.
    fn run(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.state = State::Running;
        self.renewed = now;
        for health in &mut self.health {
            health.heard(now);
        }
        let (session, generation) = (self.terms.session, self.terms.generation);
        // Stages forget what they hold beyond.
        let start = self.begin;
        if self.terms.evidence.is_some() {
            let resumes = self.terms.resumable() > 0;
            let goes_on = self.held.iter().map(|&held| if resumes { held } else { start }).collect();
            actions.push(Action::Attest { goes_on });
        }
        let tokens = self.terms.prompt[start as usize..].to_vec();
        let tokens = Tokens { session, generation, start: Position::new(start), tokens };
        actions.push(Action::Send { stage: 0, frame: Control::Tokens(tokens) });
        let run_until = self.credit.consumed(0).unwrap_or_else(|| self.credit.granted());
        actions.push(self.send_credit(0, run_until));
        self.update_debts(now);
    }

    fn reported(&mut self, now: Duration, stage: usize, report: Report, actions: &mut Vec<Action>) {
        let (session, generation) = match &report {
            Report::Sampled(sampled) => (sampled.session, sampled.generation),
            Report::Progress(progress) => (progress.session, progress.generation),
            Report::Failed(failed) => (failed.session, failed.generation),
            Report::Ended(ended) => (ended.session, ended.generation),
            Report::Signed(_) => return,
        };
        // Older generations are dropped silently; newer ones nobody has opened.
        if session != self.terms.session || generation != self.terms.generation {
            return;
        }
        match report {
            Report::Ended(account) => {
                self.accounts[stage] = Some(*account);
                self.finish_if_accounted(actions);
            }
            Report::Failed(failed) => {
                self.gone[stage] = true;
                self.stage_failed(now, stage, *failed, actions);
                self.finish_if_accounted(actions);
            }
            Report::Progress(progress) => {
                self.health[stage].progress(now, &progress);
                self.update_debts(now);
            }
            Report::Signed(_) => {}
            Report::Sampled(sampled) => {
                self.health[stage].heard(now);
                if self.state == State::Running {
                    self.sampled(now, stage, *sampled, actions);
                }
            }
        }
    }

    /// A token, exactly once by position.
    fn sampled(&mut self, now: Duration, stage: usize, token: Sampled, actions: &mut Vec<Action>) {
        let expected = self.next_position();
        if stage == self.last() && token.position < expected {
            return; // A duplicate of what the client has.
        }
        if let Err(what) = self.check_token(stage, &token, expected) {
            let stage = self.terms.label(stage);
            return self.fail(now, SessionError::Violation { stage, what }, actions);
        }
        self.received += 1;
        // A token of position p was sampled from the row at p - 1, which every stage has applied.
        for health in &mut self.health {
            health.advance(now, token.position);
        }
        self.update_debts(now);
        let (id, finish) = (token.token, token.finish);
        actions.push(Action::Emit { token, at: now });
        let reason = if self.terms.eos.contains(&id) {
            Some(FinishReason::Stop)
        } else if self.received >= self.terms.max_tokens || finish != Finish::No {
            Some(FinishReason::Length)
        } else {
            None
        };
        match reason {
            Some(reason) => self.conclude(now, Outcome::Finished(reason), CloseCode::Finished, actions),
            None => self.standbys.token(&self.terms, id, actions),
        }
    }

    fn check_token(&self, stage: usize, token: &Sampled, expected: Position) -> Result<(), String> {
        if stage != self.last() {
            return Err("it sent a token, but is not the last stage".into());
        }
        if token.position > expected {
            return Err(format!("it sent the token of position {}, expected {expected}", token.position));
        }
        if token.position > self.credit.last_token() {
            return Err(format!(
                "it ran past its credit: token {} of {}",
                token.position,
                self.credit.granted()
            ));
        }
        if token.token >= self.terms.vocab {
            return Err(format!(
                "token id {} is outside the vocabulary of {}",
                token.token, self.terms.vocab
            ));
        }
        let asked = usize::from(self.terms.answer.top_logprobs);
        if token.top.len() > asked || token.top.iter().any(|&(id, _)| id >= self.terms.vocab) {
            return Err(format!("{} alternatives to a token, {asked} asked for", token.top.len()));
        }
        let ends = self.terms.eos.contains(&token.token);
        let full = token.position.plus(1).get() >= self.terms.max_positions;
        match token.finish {
            Finish::Eos if !ends => Err(format!("it ended the answer with {}, which ends none", token.token)),
            Finish::Length if self.received + 1 < self.terms.max_tokens && !full && !ends => {
                Err(format!("it ended the answer after {} tokens", self.received + 1))
            }
            _ => Ok(()),
        }
    }

    fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if let (Some(after), State::Opening { .. } | State::Running) = (self.terms.limits.total, &self.state)
            && now >= after
        {
            return self.fail(now, SessionError::TimedOut { after }, actions);
        }
        match self.state {
            State::Opening { next, asked } if now >= asked + self.terms.limits.open => {
                let why = format!("no answer to Open within {} ms", self.terms.limits.open.as_millis());
                self.fail(now, SessionError::Unreachable { stage: self.terms.label(next), why }, actions);
            }
            State::Running => {
                for stage in 0..self.health.len() {
                    if self.asked_at(stage).is_some_and(|due| now >= due) {
                        self.health[stage].ask(now);
                        let patience = self.watch(stage).answer;
                        actions.push(Action::Probe { stage, patience });
                    }
                }
                if let Some((stage, why)) = self.stalled(now) {
                    let stage = self.terms.label(stage);
                    return self.fail(now, SessionError::Stalled { stage, why }, actions);
                }
                if now >= self.renewed + self.terms.limits.lease / RENEWALS_PER_LEASE {
                    self.renewed = now;
                    let granted = self.credit.granted();
                    let standing_by = self.standbys.open();
                    actions.extend(
                        (0..=self.last()).chain(standing_by).map(|stage| self.send_credit(stage, granted)),
                    );
                }
            }
            State::Closing { until } if now >= until => self.done(actions),
            _ => {}
        }
    }

    /// The stage that is stalled for longest.
    fn stalled(&self, now: Duration) -> Option<(usize, String)> {
        let (stage, (deadline, stall)) = self
            .health
            .iter()
            .map(|health| self.stall_deadline(health))
            .enumerate()
            .min_by_key(|&(_, (deadline, _))| deadline)?;
        let why = match stall {
            Stall::Silent => "no sign of life".into(),
            Stall::Stuck => format!("no row computed beyond position {}", self.health[stage].applied()),
        };
        (now >= deadline).then_some((stage, why))
    }

    fn stall_deadline(&self, health: &StageHealth) -> (Duration, Stall) {
        health.deadline(&self.terms.limits, self.received == 0)
    }

    fn watch(&self, stage: usize) -> Watch {
        let limits = &self.terms.limits;
        let stood_by = self.standbys.keeps_up(stage, self.next_position());
        if stood_by { limits.standby_watch } else { limits.watch }
    }

    /// When a stage is to be asked whether it lives: not while the prompt is computed, as nothing would be kept of it.
    fn asked_at(&self, stage: usize) -> Option<Duration> {
        let answering = self.received + self.terms.generated > 0;
        self.health[stage].asked_at(self.watch(stage)).filter(|_| answering)
    }

    fn probed(&mut self, now: Duration, stage: usize, alive: bool, actions: &mut Vec<Action>) {
        let Some(health) = self.health.get_mut(stage) else { return };
        if !health.answered(now, alive) && self.state == State::Running {
            let why = "no answer to whether it lives".into();
            self.fail(now, SessionError::Stalled { stage: self.terms.label(stage), why }, actions);
        }
    }

    fn send_credit(&self, stage: usize, run_until: Position) -> Action {
        let (session, generation) = (self.terms.session, self.terms.generation);
        Action::Send { stage, frame: Control::Credit(Credit { session, generation, run_until }) }
    }

    /// How many rows each stage has been given: stage 0 by prompt, tokens and credit, the others by their upstream.
    fn update_debts(&mut self, now: Duration) {
        if self.state != State::Running {
            return;
        }
        let mut given = self.next_position().min(self.credit.granted());
        for health in &mut self.health {
            health.owes(now, given);
            given = health.applied();
        }
    }

    fn next_position(&self) -> Position {
        self.terms.first_position().plus(self.received)
    }

    fn last(&self) -> usize {
        self.health.len() - 1
    }
}

/// Leases are renewed this many times within one, so that one lost renewal does no harm.
const RENEWALS_PER_LEASE: u32 = 3;

fn min(a: Duration, b: Option<Duration>) -> Duration {
    b.map_or(a, |b| a.min(b))
}
