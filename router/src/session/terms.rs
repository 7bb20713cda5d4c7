//! What a session is opened with, fixed for its life.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::answer::AnswerTerms;
use proto::prefix::{BLOCK_TOKENS, TenantId, reusable_blocks};
use proto::session::{
    Further, Open, Plan, PlanStage, Priority, ResumeTerms, Role, SamplingParams, Service, TailTerms,
};
use proto::{Added, BlockHash, Generation, Position, SessionId};

use crate::attest::AnswerEvidence;

/// Everything that decides how a session runs.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionTerms {
    /// Drawn at random.
    pub session: SessionId,
    /// The pipeline's number within the session.
    pub generation: Generation,
    /// The route.
    pub plan: Plan,
    /// The prompt's ids, at least one; in a later generation with what was generated before behind them.
    pub prompt: Arc<[u32]>,
    /// How many of them were generated.
    pub generated: u32,
    /// The generation that gave the last of them.
    pub since: Generation,
    /// Tokens to generate at most, at least 1.
    pub max_tokens: u32,
    /// Positions that every stage reserves.
    pub max_positions: u32,
    /// Entries of the vocabulary; a token beyond them breaks the protocol.
    pub vocab: u32,
    /// Ids that end the answer.
    pub eos: Vec<u32>,
    /// How to sample.
    pub sampling: SamplingParams,
    /// How many positions stage 0 may run ahead of what the client has read, at least 1.
    pub credit: u32,
    /// Times.
    pub limits: SessionLimits,
    /// How the stages serve it beside others.
    pub share: SessionShare,
    /// What the answer must look like, and what is told of its choices.
    pub answer: AnswerTerms,
    /// Who stands by for which stages, at most one for each.
    pub standbys: Vec<StandbyStage>,
    /// Where what the stages sign is gathered; `None` asks for no signatures.
    pub evidence: Option<AnswerEvidence>,
}

/// A node that stands by for a stage: it computes the same rows, and takes over with them when the stage is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StandbyStage {
    /// For which one, counted from 0.
    pub stage: usize,
    /// The node, with the stage's layers.
    pub at: PlanStage,
}

/// Whose a session is, and how stages serve it beside others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionShare {
    /// Whose it is: shares of the stages' time are counted by it, and rows are reused within it only.
    pub tenant: TenantId,
    /// Its share of the steps.
    pub priority: Priority,
    /// Stages reuse rows that they hold of the same tenant's prompts, and keep those of this one.
    pub reuse: bool,
}

impl Default for SessionShare {
    fn default() -> Self {
        Self { tenant: TenantId::default(), priority: Priority::Normal, reuse: true }
    }
}

/// How long a session waits for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// The stages free the session when the router is silent for this long; renewed at a third of it.
    pub lease: Duration,
    /// One stage's answer to `Open`; it dials its downstream for up to 1 s in between.
    pub open: Duration,
    /// No report of a stage for this long (or four of its steps, if that is longer): stalled.
    pub silence: Duration,
    /// A stage that has not reported for so long is asked whether it lives, and lost if it does not say: four reports,
    /// and half of what its connection takes to notice its death.
    pub watch: Watch,
    /// The same where another node stands by and has kept up, as a move costs next to nothing there: one report and a
    /// half.
    pub standby_watch: Watch,
    /// The same while the prompt is computed: stages report between two steps, and how long a chunk of the prompt takes
    /// is not known before the first one. A dead node is noticed earlier, by its connection.
    pub prefill_silence: Duration,
    /// A stage has rows to compute and does not get on for this long (or four of its steps): stalled. Longer than
    /// `silence`, as other sessions' prefill chunks come first now and then.
    pub stuck: Duration,
    /// The same while the prompt is computed, where no step time is known yet.
    pub prefill_stuck: Duration,
    /// How long the stages' accounts are waited for after the end.
    pub accounts: Duration,
    /// The whole request; `None` = as long as it takes.
    pub total: Option<Duration>,
}

/// When a stage is asked whether it lives, and how long it has to say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Asked after so long without a report.
    pub silence: Duration,
    /// Beside twice the way there and back. Nodes answer beside their steps, so a busy one does so at once.
    pub answer: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            open: Duration::from_secs(3),
            silence: Duration::from_secs(1),
            watch: Watch { silence: Duration::from_millis(400), answer: Duration::from_millis(250) },
            standby_watch: Watch { silence: Duration::from_millis(150), answer: Duration::from_millis(100) },
            prefill_silence: Duration::from_secs(30),
            stuck: Duration::from_secs(2),
            prefill_stuck: Duration::from_mins(2),
            accounts: Duration::from_millis(300),
            total: None,
        }
    }
}

impl SessionTerms {
    /// The next generation: the same session over another route, going on behind the tokens that have come, which are
    /// forced. `None` if no further one may come.
    #[must_use]
    pub fn resumed(&self, plan: Plan, standbys: Vec<StandbyStage>, came: &[u32]) -> Option<Self> {
        let left = self.max_tokens.checked_sub(came.len() as u32).filter(|&left| left > 0)?;
        let generation = Generation::new(self.generation.get().checked_add(1)?);
        let mut next = Self { plan, standbys, generation, max_tokens: left, ..self.clone() };
        next.prompt = self.prompt.iter().chain(came).copied().collect();
        next.generated += came.len() as u32;
        if !came.is_empty() {
            next.since = self.generation;
        }
        Some(next)
    }

    /// The stages in order.
    pub fn stages(&self) -> &[PlanStage] {
        &self.plan.stages
    }

    /// Position of the first token to be sampled.
    pub fn first_position(&self) -> Position {
        Position::new(self.prompt.len() as u32)
    }

    /// Rows that stages may hold of earlier generations: all but the last token's. 0 in a first one.
    pub(crate) fn resumable(&self) -> u32 {
        if self.generated == 0 { 0 } else { self.prompt.len().saturating_sub(1) as u32 }
    }

    /// What stage number `stage` is asked, where the next one goes on from position `downstream`.
    pub(crate) fn open(&self, stage: usize, downstream: u32) -> Open {
        let tail = (stage + 1 == self.stages().len()).then(|| TailTerms {
            history: self.prompt.to_vec(),
            generated: self.generated,
            sampling: self.sampling.clone(),
            eos: self.eos.clone(),
            max_tokens: self.max_tokens.saturating_add(self.generated),
        });
        let rows = self.resumable();
        let role = Added(Role { standby: false, attested: Added(self.evidence.is_some()) });
        let resume = if rows == 0 {
            ResumeTerms { role, ..ResumeTerms::default() }
        } else {
            let (downstream, since) = (downstream.min(rows), self.since.get());
            ResumeTerms { rows, downstream, since, role }
        };
        let answer = if tail.is_some() { self.answer.clone() } else { AnswerTerms::default() };
        Open {
            session: self.session,
            generation: self.generation,
            plan: self.plan.clone(),
            stage: stage as u16,
            max_positions: self.max_positions,
            lease_ms: u32::try_from(self.limits.lease.as_millis()).unwrap_or(u32::MAX),
            tail,
            service: Added(Service {
                tenant: self.share.tenant,
                priority: self.share.priority,
                deadline_ms: self.limits.total.map_or(0, deadline_ms),
                prefix: self.prefix_blocks(),
                further: Added(Further { answer, resume: Added(resume) }),
            }),
        }
    }

    /// What a node is asked that stands by: to be the stage, but to send nothing on.
    pub(crate) fn open_standby(&self, StandbyStage { stage, at }: StandbyStage) -> Open {
        let mut open = self.open(stage, u32::MAX);
        open.plan.stages[stage] = at;
        open.tail = None;
        let further = &mut open.service.0.further.0;
        further.answer = AnswerTerms::default();
        further.resume.0.role = Added(Role { standby: true, attested: Added(false) });
        open
    }

    /// Whether a stage may go on from this position: after a whole block of those that were offered, or in a later
    /// generation anywhere up to the last token known.
    pub(crate) fn may_begin_at(&self, position: u32) -> bool {
        if self.resumable() > 0 {
            return position <= self.resumable();
        }
        let offered = if self.share.reuse { self.prompt.len().saturating_sub(1) as u32 } else { 0 };
        position <= offered && position.is_multiple_of(BLOCK_TOKENS)
    }

    /// The blocks of the prompt that are offered to the stages.
    pub(crate) fn prefix_blocks(&self) -> Vec<BlockHash> {
        if self.share.reuse { reusable_blocks(&self.share.tenant, &self.prompt) } else { Vec::new() }
    }

    /// A stage as errors name it.
    pub(crate) fn label(&self, stage: usize) -> StageLabel {
        StageLabel { stage, at: self.plan.stages[stage] }
    }
}

/// Rounded up, so that no stage calls a deadline passed before this router does; 0 would be none.
fn deadline_ms(total: Duration) -> u32 {
    u32::try_from(total.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
}

/// A stage as errors name it: `node 1a2b3c4d (layers 10..20, 127.0.0.1:7401)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageLabel {
    /// Its place in the route.
    pub stage: usize,
    /// Node, address and span.
    pub at: PlanStage,
}

impl fmt::Display for StageLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} (layers {}, {})", self.at.node.short(), self.at.span, self.at.addr)
    }
}
