//! One session on one stage, as a pure state machine.
//!
//! ```text
//!              Tokens / Rows            take            StepDone
//!   opened ------------------> waiting -----> computing --------> applied --+
//!     ^                           ^                                |        |
//!     |                           +------ Sampled, Credit (head) --+--------+
//!     +-- Close / lease / lost hop / lost router / violation, from anywhere --> End
//! ```
//! Time, rows and logits come in as arguments, actions go out; nothing here sends, waits or computes. Other events may
//! come between [`Session::take`] and `StepDone` or `StepFailed`, as a long chunk is computed in pieces; if one of
//! them ends the session, neither of the two follows. Which session a frame belongs to, generations and tombstones are
//! [`table`]'s.

mod account;
mod admission;
mod boundary;
mod head;
mod inbox;
mod lease;
mod reuse;
mod step;
pub mod table;
mod tail;
mod terms;
mod tombstones;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use proto::session::{Ended, Failed, Progress, Sampled};
use proto::status::{CloseCode, cut};
use proto::{Added, NodeId, Position};
use proto_sampling::Scratch;
use shard_node_stage::KvSlot;

pub use account::Account;
pub use admission::Admission;
pub use inbox::{Arrival, Chunk, ChunkRows, Hold};
pub use step::{Member, Outgoing, Step};
pub use tail::Shape;
pub use terms::{SessionKey, Terms};

use head::Head;
use inbox::{Inbox, Violation};
use lease::Lease;
use tail::Tail;

/// What happens to a session.
#[derive(Debug)]
pub enum Event<'a> {
    /// Prompt tokens from the router; stage 0 only.
    Tokens {
        /// Position of the first one.
        start: Position,
        /// The ids.
        tokens: Vec<u32>,
    },
    /// Rows from the stage before; all but stage 0.
    Rows {
        /// Position of the first one.
        start: Position,
        /// The rows.
        chunk: Chunk,
    },
    /// A token from the tail; stage 0 only.
    Sampled {
        /// The token.
        sampled: Sampled,
        /// When it came.
        arrival: Arrival,
    },
    /// The router lets stage 0 run so far, and lives.
    Credit {
        /// No row at or beyond it.
        run_until: Position,
    },
    /// The rows taken are in the KV.
    StepDone {
        /// How long the step took.
        took: Duration,
        /// Bytes sent downstream for the session's rows.
        bytes: u64,
        /// Logits of the last row, if it was to be sampled and this is the tail; overwritten.
        logits: Option<&'a mut [f32]>,
        /// The sampler's memory.
        scratch: &'a mut Scratch,
    },
    /// The rows taken could not be computed.
    StepFailed {
        /// Why.
        detail: String,
    },
    /// The router ends it.
    Close(CloseCode),
    /// This neighbour is gone.
    HopLost(NodeId),
    /// This neighbour sent rows that hold what is no number.
    NotNumbers(NodeId),
    /// The node can't sign for the session, for this reason.
    NotSigned(String),
    /// The connection to the router is gone.
    RouterLost,
    /// Time passes: leases end, progress is due.
    Tick,
    /// The process is going down.
    ShutDown,
}

/// What follows from an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A decode row is ready to be computed.
    DecodeReady,
    /// So many more prefill rows are ready to be computed.
    PrefillReady(u32),
    /// Forget the KV's rows from this position on, before the next step.
    Trim(Position),
    /// So long after its last decode row the next one was computed; stage 0 only.
    Round(Duration),
    /// So many rows of the prompt need not be computed.
    Skipped(u32),
    /// The token at this position was chosen from logits with this logarithm of the sum of exponentials; where that is
    /// signed for.
    Chosen {
        /// Of the token.
        position: Position,
        /// The token.
        token: u32,
        /// Over the logits as the stage gave them.
        logsumexp: f32,
    },
    /// Send the token to stage 0, before anything else.
    Return(Sampled),
    /// Tell the router.
    Report(Report),
    /// The session is over: free its KV and forget it.
    End(CloseCode),
}

/// What the router is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A token.
    Sampled(Sampled),
    /// The stage lives and computes.
    Progress(Progress),
    /// It can't go on.
    Failed(Failed),
    /// The account after a close.
    Ended(Ended),
}

/// Rows on their way into a step.
#[derive(Debug)]
pub struct Taken {
    /// Position of the first one.
    pub start: Position,
    /// The rows.
    pub chunk: Chunk,
    /// From the end of upstream's compute to now, if it is known.
    pub hop: Option<Duration>,
    /// From the arrival here to now.
    pub waited: Option<Duration>,
}

/// What remains to be known of rows in a step.
#[derive(Debug, Clone, Copy)]
struct Computing {
    start: Position,
    rows: u32,
    sample: bool,
    prefill: bool,
    hop: Option<Duration>,
}

/// One session on this stage.
#[derive(Debug)]
pub struct Session {
    terms: Terms,
    slot: KvSlot,
    inbox: Inbox,
    computing: Option<Computing>,
    applied: Position,
    /// Rows that the KV holds, until it is known from the first rows how many of them are of use.
    reusable: Option<u32>,
    /// Where its first rows began, once they came.
    first: Position,
    head: Option<Head>,
    tail: Option<Tail>,
    lease: Lease,
    deadline: Option<Instant>,
    account: Account,
    last_step: Duration,
    /// The row that the first token is sampled from was applied.
    decoding: bool,
    /// When its last decode row was applied, and from one to the next on the average.
    last_row: Option<Instant>,
    /// The row that is computed next waited for credit: what it took is no round of the pipeline.
    was_held: bool,
    pace: Option<Duration>,
}

impl Session {
    /// A session that was just opened.
    pub fn new(now: Instant, terms: Terms, slot: KvSlot, shape: Option<Box<dyn Shape>>) -> Self {
        Self {
            inbox: Inbox::new(terms.max_positions),
            computing: None,
            applied: Position::new(0),
            reusable: Some(terms.reusable),
            first: Position::new(0),
            head: terms.is_first().then(Head::default),
            tail: terms.tail.clone().map(|part| Tail::new(part, shape)),
            lease: Lease::new(now, terms.lease),
            deadline: terms.deadline.and_then(|given| now.checked_add(given)),
            account: Account::default(),
            last_step: Duration::ZERO,
            decoding: false,
            last_row: None,
            was_held: false,
            pace: None,
            slot,
            terms,
        }
    }

    /// What was agreed at open.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Its KV.
    pub const fn slot(&self) -> KvSlot {
        self.slot
    }

    /// Rows in its KV.
    pub const fn applied(&self) -> Position {
        self.applied
    }

    /// When it has to be done.
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether its prompt is computed, so that each step it waits is seen by its reader.
    pub const fn is_decoding(&self) -> bool {
        self.decoding
    }

    /// From one of its rows to the next, if it has had two.
    pub const fn pace(&self) -> Option<Duration> {
        self.pace
    }

    /// How long it lasts if it uses all its positions, a row each `pace`.
    pub fn ends_in(&self, now: Instant, pace: Duration) -> Duration {
        let left = self.terms.max_positions - self.applied.get().min(self.terms.max_positions);
        let rows = self.pace.unwrap_or(pace).saturating_mul(left);
        match self.deadline {
            Some(deadline) => rows.min(deadline.saturating_duration_since(now)),
            None => rows,
        }
    }

    /// Rows that its KV holds, whether or not it is known yet how many are of use.
    pub fn held(&self) -> u32 {
        self.reusable.unwrap_or_else(|| self.applied.get())
    }

    /// Where its first rows began.
    pub const fn first_row(&self) -> Position {
        self.first
    }

    /// Rows that the next piece of its inbox holds, 0 if it is empty. Rows that go on to the next stage and rows that
    /// do not are different pieces.
    pub fn ready_rows(&self) -> u32 {
        let (next, rows) = (self.inbox.next(), self.inbox.front_rows());
        match self.terms.sent_from().get().checked_sub(next.get()) {
            Some(unsent) if unsent > 0 => rows.min(unsent),
            _ => rows,
        }
    }

    /// What follows from `event`.
    pub fn on_event(&mut self, now: Instant, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Tokens { start, tokens } => {
                self.lease.renew(now);
                self.on_tokens(start, tokens)
            }
            Event::Rows { start, chunk } => self.on_rows(start, chunk),
            Event::Sampled { sampled, arrival } => self.on_sampled(&sampled, Some(arrival)),
            Event::Credit { run_until } => {
                self.lease.renew(now);
                self.on_credit(run_until)
            }
            Event::StepDone { took, bytes, logits, scratch } => {
                self.on_step_done(now, took, bytes, logits, scratch)
            }
            Event::StepFailed { detail } => self.fail(CloseCode::Compute, None, detail),
            Event::Close(code) => {
                let waste = if code == CloseCode::Finished { 0 } else { self.account.rows_since_credit() };
                let ended = self.account.ended(&self.terms, waste);
                vec![Action::Report(Report::Ended(ended)), Action::End(code)]
            }
            Event::HopLost(node) => {
                let detail = format!("the connection to node {} is gone", node.short());
                self.fail(CloseCode::HopLost, Some(node), detail)
            }
            Event::NotNumbers(node) => {
                let detail = format!("node {} sent rows that hold what is no number", node.short());
                self.fail(CloseCode::Protocol, Some(node), detail)
            }
            Event::NotSigned(why) => self.fail(CloseCode::Protocol, None, format!("not signed for: {why}")),
            Event::RouterLost => {
                self.lease.router_lost(now);
                Vec::new()
            }
            Event::Tick => match self.lease.expired(now) {
                Some(code) => {
                    self.fail(code, None, format!("silent for {} ms", self.terms.lease.as_millis()))
                }
                None if self.deadline.is_some_and(|deadline| deadline <= now) => {
                    let given = self.terms.deadline.unwrap_or_default().as_millis();
                    self.fail(CloseCode::Deadline, None, format!("not done within {given} ms"))
                }
                None => vec![Action::Report(Report::Progress(self.progress()))],
            },
            Event::ShutDown => {
                self.fail(CloseCode::ShuttingDown, Some(self.terms.own), "the node is leaving".into())
            }
        }
    }

    /// Takes up to `rows` rows for a step. `None` if nothing is ready.
    pub fn take(&mut self, now: Instant, rows: u32) -> Option<Taken> {
        let (start, chunk) = self.inbox.take(rows.min(self.ready_rows()))?;
        let hop = chunk.arrival.and_then(|arrival| arrival.since_upstream(now));
        let waited = chunk.arrival.map(|arrival| now.saturating_duration_since(arrival.received));
        self.computing =
            Some(Computing { start, rows: chunk.count, sample: chunk.sample, prefill: chunk.prefill, hop });
        Some(Taken { start, chunk, hop, waited })
    }

    fn on_tokens(&mut self, start: Position, tokens: Vec<u32>) -> Vec<Action> {
        let Some(head) = &mut self.head else {
            return self.violation(&Violation::NotForThisStage { what: "tokens" });
        };
        if start.get().saturating_add(tokens.len() as u32) <= self.inbox.end().get() {
            return Vec::new();
        }
        if let Some(&token) = tokens.iter().find(|&&token| token >= self.terms.vocab) {
            let violation = Violation::Token { token, vocab: self.terms.vocab };
            return self.violation(&violation);
        }
        // One that stands by is told the tokens in portions; what waits is bounded by the positions reserved.
        if std::mem::replace(&mut head.prompted, true) && !self.terms.standby {
            return self.violation(&Violation::Crowded);
        }
        let count = tokens.len() as u32;
        let chunk = Chunk {
            rows: ChunkRows::Tokens(tokens),
            count,
            sample: !self.terms.standby,
            prefill: true,
            arrival: None,
            hold: None,
        };
        self.on_given(start, chunk)
    }

    fn on_rows(&mut self, start: Position, chunk: Chunk) -> Vec<Action> {
        if self.head.is_some() {
            return self.violation(&Violation::NotForThisStage { what: "activations" });
        }
        self.on_given(start, chunk)
    }

    /// Rows from the router or the stage before. The first of a session say how many of the rows that its KV holds are
    /// of use.
    fn on_given(&mut self, start: Position, chunk: Chunk) -> Vec<Action> {
        let Some(held) = self.reusable.take() else { return self.offer(start, chunk) };
        if start.get() > held {
            return self.violation(&Violation::Gap { expected: Position::new(held), got: start });
        }
        self.inbox.begin_at(start);
        (self.applied, self.first) = (start, start);
        self.account.skipped(start.get());
        let mut actions = Vec::new();
        if start.get() < held {
            actions.push(Action::Trim(start));
        }
        if start.get() > 0 {
            actions.push(Action::Skipped(start.get()));
        }
        actions.extend(self.offer(start, chunk));
        actions
    }

    fn on_sampled(&mut self, sampled: &Sampled, arrival: Option<Arrival>) -> Vec<Action> {
        let Some(head) = &mut self.head else {
            return self.violation(&Violation::NotForThisStage { what: "a sampled token" });
        };
        let vocab = self.terms.vocab;
        if sampled.token >= vocab {
            return self.violation(&Violation::Token { token: sampled.token, vocab });
        }
        match head.on_sampled(sampled, self.inbox.end(), arrival) {
            Ok(Some(next)) => self.offer(next.position, Chunk::token(next.token, next.arrival)),
            Ok(None) => Vec::new(),
            Err(violation) => self.violation(&violation),
        }
    }

    fn on_credit(&mut self, run_until: Position) -> Vec<Action> {
        self.account.credit();
        match self.head.as_mut().and_then(|head| head.on_credit(run_until)) {
            // The wait for credit is the router's, not the hop's: no arrival, and no round of the pipeline.
            Some(next) => {
                self.was_held = true;
                self.offer(next.position, Chunk::token(next.token, None))
            }
            None => Vec::new(),
        }
    }

    fn on_step_done(
        &mut self,
        now: Instant,
        took: Duration,
        bytes: u64,
        logits: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) -> Vec<Action> {
        let Some(done) = self.computing.take() else { return Vec::new() };
        let mut actions = Vec::new();
        self.applied = done.start.plus(done.rows);
        self.last_step = took;
        self.decoding |= done.sample;
        if done.prefill {
            self.account.prefill(done.rows, took);
        } else {
            self.account.decode(took, done.hop, bytes);
            let was_held = std::mem::take(&mut self.was_held);
            if let Some(last) = self.last_row {
                let since = now.saturating_duration_since(last);
                self.pace = Some(self.pace.map_or(since, |pace| (pace * 7 + since) / 8));
                if self.head.is_some() && !was_held {
                    actions.push(Action::Round(since));
                }
            }
            self.last_row = Some(now);
        }
        let (Some(tail), Some(logits), true) = (&mut self.tail, logits, done.sample) else {
            return actions;
        };
        let chosen = tail.sample(&self.terms, self.applied, logits, scratch).map(|(sampled, logsumexp)| {
            if self.terms.attested {
                let Sampled { position, token, .. } = sampled;
                actions.push(Action::Chosen { position, token, logsumexp });
            }
            sampled
        });
        match chosen {
            Ok(sampled) if self.head.is_some() => {
                actions.push(Action::Report(Report::Sampled(sampled.clone())));
                actions.extend(self.on_sampled(&sampled, None));
            }
            Ok(sampled) => {
                // Stage 0 has no use for what else might have been chosen.
                let returned = Sampled { top: Added::default(), ..sampled.clone() };
                actions.extend([Action::Return(returned), Action::Report(Report::Sampled(sampled))]);
            }
            Err(error) => actions.extend(self.fail(error.code(), None, error.to_string())),
        }
        actions
    }

    fn offer(&mut self, start: Position, chunk: Chunk) -> Vec<Action> {
        let prefill = chunk.prefill;
        if !prefill && self.computing.is_some() {
            return self.violation(&Violation::Crowded);
        }
        match self.inbox.offer(start, chunk) {
            Ok(0) => Vec::new(),
            Ok(_) if !prefill => vec![Action::DecodeReady],
            Ok(rows) => vec![Action::PrefillReady(rows)],
            Err(violation) => self.violation(&violation),
        }
    }

    fn violation(&self, violation: &Violation) -> Vec<Action> {
        self.fail(CloseCode::Protocol, None, violation.to_string())
    }

    fn fail(&self, code: CloseCode, lost: Option<NodeId>, detail: String) -> Vec<Action> {
        let failed = Failed {
            session: self.terms.key.session,
            generation: self.terms.generation,
            code,
            lost,
            detail: cut(detail),
        };
        vec![Action::Report(Report::Failed(failed)), Action::End(code)]
    }

    fn progress(&self) -> Progress {
        Progress {
            session: self.terms.key.session,
            generation: self.terms.generation,
            applied: self.applied,
            step_us: micros(self.last_step),
        }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
