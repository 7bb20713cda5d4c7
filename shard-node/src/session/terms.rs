//! What was agreed at open: fixed for the life of a session on this stage.

use std::ops::Range;
use std::time::Duration;

use proto::prefix::TenantId;
use proto::session::{Open, PlanStage, Priority, ResumeTerms, TailTerms};
use proto::{BlockHash, Generation, LayerSpan, NodeId, Position, SessionId};
use proto_sampling::{ParameterError, Sampler};
use shard_node_stage::{Flow, PrefixScope};

use super::reuse;

/// Names a session: ids are drawn by routers, so only both together are unique, and no router can touch another's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionKey {
    /// The router that opened it, proved by the handshake.
    pub router: NodeId,
    /// Its number.
    pub session: SessionId,
}

/// A stage's part of an [`Open`], checked.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The session.
    pub key: SessionKey,
    /// Its pipeline's number.
    pub generation: Generation,
    /// This node.
    pub own: NodeId,
    /// The layers that are computed, of those that it holds.
    pub part: LayerSpan,
    /// Positions of KV reserved.
    pub max_positions: u32,
    /// How long the router may be silent.
    pub lease: Duration,
    /// The stage before; `None` on stage 0.
    pub upstream: Option<NodeId>,
    /// The stage after; `None` on the tail.
    pub downstream: Option<PlanStage>,
    /// Stage 0, as seen from a tail that is another node.
    pub return_to: Option<PlanStage>,
    /// The tail, as seen from a stage 0 that is another node.
    pub returned_by: Option<NodeId>,
    /// Stages of the plan.
    pub stages: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// For the tail only.
    pub tail: Option<TailPart>,
    /// Whose it is, within its router.
    pub tenant: TenantId,
    /// Its share of the steps.
    pub priority: Priority,
    /// How long it may take in all.
    pub deadline: Option<Duration>,
    /// Whose rows it may reuse.
    pub scope: PrefixScope,
    /// The first blocks of its prompt.
    pub blocks: Vec<BlockHash>,
    /// Rows that its KV holds from the beginning: of its prompt's blocks, or of its earlier generation.
    pub reusable: u32,
    /// What is of use of earlier generations.
    pub resume: ResumeTerms,
    /// Rows that are sent on once more, before any other, as the next stage lacks them.
    pub replay: Range<u32>,
    /// Its first rows came from other stages than the plan names: nobody else may have them.
    pub mixed: bool,
    /// It computes what another node computes, should that one be lost, and sends nothing on.
    pub standby: bool,
    /// Its rows are signed for.
    pub attested: bool,
}

/// What the tail samples with.
#[derive(Debug, Clone)]
pub struct TailPart {
    /// As opened.
    pub terms: TailTerms,
    /// Its parameters, checked.
    pub sampler: Sampler,
    /// So many of the likeliest tokens are told with each choice.
    pub top_logprobs: u8,
}

impl Terms {
    /// The part of `open` that concerns its receiver `own`. The plan's shape was checked when it was decoded.
    pub fn new(own: NodeId, router: NodeId, open: &Open, vocab: u32) -> Result<Self, ParameterError> {
        let stage = usize::from(open.stage);
        let stages = &open.plan.stages;
        let last = stages.len() - 1;
        let standby = open.service.further.resume.role.standby;
        let tail = match &open.tail {
            Some(terms) => {
                let sampler = Sampler::new(&terms.sampling, vocab as usize)?;
                let top_logprobs = open.service.further.answer.top_logprobs;
                Some(TailPart { terms: terms.clone(), sampler, top_logprobs })
            }
            None => None,
        };
        Ok(Self {
            key: SessionKey { router, session: open.session },
            generation: open.generation,
            own,
            part: stages[stage].span,
            max_positions: open.max_positions,
            lease: Duration::from_millis(u64::from(open.lease_ms)).clamp(SHORTEST_LEASE, LONGEST_LEASE),
            upstream: (stage > 0).then(|| stages[stage - 1].node),
            downstream: stages.get(stage + 1).copied().filter(|_| !standby),
            return_to: (stage == last && last > 0 && !standby).then(|| stages[0]),
            returned_by: (stage == 0 && last > 0 && !standby).then(|| stages[last].node),
            stages: stages.len() as u32,
            vocab,
            tail,
            tenant: open.service.tenant,
            priority: open.service.priority,
            deadline: (open.service.deadline_ms > 0)
                .then(|| Duration::from_millis(u64::from(open.service.deadline_ms))),
            scope: reuse::scope(router, open),
            blocks: open.service.prefix.clone(),
            reusable: 0,
            resume: *open.service.further.resume,
            replay: 0..0,
            mixed: false,
            standby,
            attested: *open.service.further.resume.role.attested && !standby,
        })
    }

    /// Whose share of a stage's time it takes, and how large that is.
    pub const fn flow(&self) -> Flow<(NodeId, TenantId)> {
        let weight = match self.priority {
            Priority::Low => 1,
            Priority::Normal => 4,
            Priority::High => 16,
        };
        Flow { tenant: (self.key.router, self.tenant), weight }
    }

    /// Embeds tokens.
    pub const fn is_first(&self) -> bool {
        self.upstream.is_none()
    }

    /// Rows before this position are computed, but nobody needs what comes of them: the next stage holds its own.
    pub const fn sent_from(&self) -> Position {
        Position::new(if self.downstream.is_some() { self.resume.downstream } else { 0 })
    }

    /// Who sends it frames from within the pipeline: the stage before, or the tail for stage 0.
    pub fn feeder(&self) -> Option<NodeId> {
        self.upstream.or(self.returned_by)
    }

    /// Whom it sends to within the pipeline: the stage after, or stage 0 for the tail.
    pub fn receiver(&self) -> Option<PlanStage> {
        self.downstream.or(self.return_to)
    }
}

/// Shorter ones end between two signs of life (a third of the lease) whenever a packet is lost.
const SHORTEST_LEASE: Duration = Duration::from_millis(200);
/// What a router that vanished may block at most.
const LONGEST_LEASE: Duration = Duration::from_mins(10);
