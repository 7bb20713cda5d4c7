//! The life of a session on a pipeline: open, tokens, credit, samples, progress, end.
//!
//! Open goes downstream-first, so that every stage knows that its downstream is ready; each answer echoes the plan's
//! digest. Afterwards every frame is one-way.

mod control;

use std::net::SocketAddr;

use bincode::{Decode, Encode};

use crate::answer::{AnswerTerms, MAX_TOP_LOGPROBS};
use crate::message::{control_message, encode_control};
use crate::prefix::{BLOCK_TOKENS, TenantId};
use crate::status::{CloseCode, Refusal, check_detail};
use crate::tensor::NumericsClass;
use crate::{
    Added, BlockHash, ContentHash, DecodeError, Generation, LayerSpan, ModelId, NodeId, Position, SessionId,
};

pub use control::{Close, Credit, Follow, Tokens};

/// Longest route.
pub const MAX_STAGES: usize = 128;
/// Most positions of a session; also bounds a prompt.
pub const MAX_POSITIONS: u32 = 131_072;
/// Most entries of a logit bias, as in the OpenAI API's practice.
pub const MAX_LOGIT_BIAS: usize = 1024;
/// Most end-of-sequence ids.
pub const MAX_EOS: usize = 64;

/// One stage of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PlanStage {
    /// Who computes it.
    pub node: NodeId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Which layers.
    pub span: LayerSpan,
}

/// A route that is being opened: stages tile `[0, n_layers)` in order.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Plan {
    /// The weights.
    pub model: ModelId,
    /// How every stage computes.
    pub class: NumericsClass,
    /// Layers of the model.
    pub n_layers: u32,
    /// The stages in order.
    pub stages: Vec<PlanStage>,
}

impl Plan {
    /// BLAKE3 of the encoded plan; every stage echoes it.
    pub fn digest(&self) -> ContentHash {
        ContentHash::of(&encode_control(self))
    }

    /// Whether the stages tile the model.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.stages.is_empty() || self.stages.len() > MAX_STAGES {
            return Err(DecodeError::field("stages", format!("{} stages", self.stages.len())));
        }
        if !LayerSpan::tile(self.stages.iter().map(|stage| stage.span), self.n_layers) {
            return Err(DecodeError::field("stages", format!("spans do not tile 0..{}", self.n_layers)));
        }
        Ok(())
    }
}

/// How the tail turns logits into a token. `Default` is greedy.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub struct SamplingParams {
    /// 0 = greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the k most likely; 0 = all.
    pub top_k: u32,
    /// Keep the smallest set with at least this probability; 1 = all.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely one; 0 = none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen (Keskar et al. 2019); 1 = off.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens generated (OpenAI API); 0 = off.
    pub presence_penalty: f32,
    /// Subtracted per occurrence from tokens generated (OpenAI API); 0 = off.
    pub frequency_penalty: f32,
    /// Added to single logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the Gumbel noise; with the position it determines the choice.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// What only the tail needs to know.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub struct TailTerms {
    /// Prompt ids, for penalties; on resume the forced tokens as well.
    pub history: Vec<u32>,
    /// How many of `history` were generated (the rest is prompt).
    pub generated: u32,
    /// How to sample.
    pub sampling: SamplingParams,
    /// Ids that end the answer.
    pub eos: Vec<u32>,
    /// Tokens to generate at most, counted from the prompt's end.
    pub max_tokens: u32,
}

/// Which of the sessions that wait a stage serves first. Shares, not ranks: nobody is starved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Encode, Decode)]
pub enum Priority {
    /// The usual share.
    #[default]
    Normal,
    /// A quarter of it, for work that nobody waits for.
    Low,
    /// Four times as much.
    High,
}

/// How a session is served beside others; `Default` asks for nothing special.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Service {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its share.
    pub priority: Priority,
    /// From the arrival of this frame on, the session may take so long, milliseconds; then the stage ends it. 0 = as
    /// long as it takes.
    pub deadline_ms: u32,
    /// Hashes of the prompt's first blocks, see [`prefix`](crate::prefix): the stage may know rows of them.
    pub prefix: Vec<BlockHash>,
    /// What later versions of this one added.
    pub further: Added<Further>,
}

/// More of how a session is served; `Default` asks for nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Further {
    /// What the answer must look like; for the tail only.
    pub answer: AnswerTerms,
    /// What is of use of the rows that the stages hold of an earlier generation.
    pub resume: Added<ResumeTerms>,
}

/// How a later generation goes on from rows that stages hold of an earlier one; `Default` computes all of them anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct ResumeTerms {
    /// Rows from position 0 on that may be of use: all but that of the last token known, which is computed again so
    /// that the tail can choose the next one.
    pub rows: u32,
    /// Where the next stage goes on, which has opened already: it takes no row before, and needs all from there on.
    /// `rows` for the tail.
    pub downstream: u32,
    /// The generation that gave the last token known: rows of one before may be of tokens that were discarded since.
    pub since: u32,
    /// As what the receiver takes part.
    pub role: Added<Role>,
}

/// As what a node takes part in a session; `Default` is a stage that signs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Role {
    /// The receiver is not the stage itself but stands by for it: it computes the same rows, sends them to nobody and
    /// samples nothing.
    pub standby: bool,
    /// It keeps account of its rows from the first one on: it is asked to sign for them once all stages have opened,
    /// see [`Attest`](crate::attest::Attest).
    pub attested: Added<bool>,
}

/// Asks a stage to take part in a session.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub struct Open {
    /// The session.
    pub session: SessionId,
    /// Its pipeline's number.
    pub generation: Generation,
    /// The route.
    pub plan: Plan,
    /// Which stage of the plan the receiver is.
    pub stage: u16,
    /// KV to reserve, in positions.
    pub max_positions: u32,
    /// The session ends when the router is silent for this long, milliseconds.
    pub lease_ms: u32,
    /// For the tail only.
    pub tail: Option<TailTerms>,
    /// How it is served beside others.
    pub service: Added<Service>,
}
control_message!(Open, Open, |open: &Open| {
    open.plan.check()?;
    let last = open.plan.stages.len() - 1;
    if usize::from(open.stage) > last {
        return Err(DecodeError::field("stage", format!("{} of {} stages", open.stage, last + 1)));
    }
    let Further { answer, resume } = &open.service.further.0;
    if (usize::from(open.stage) == last && !resume.role.standby) != open.tail.is_some() {
        return Err(DecodeError::field("tail", "exactly the last stage is told the tail's terms"));
    }
    if open.max_positions == 0 || open.max_positions > MAX_POSITIONS {
        return Err(DecodeError::field("max_positions", format!("{}", open.max_positions)));
    }
    if let Some(tail) = &open.tail
        && (tail.history.len() > MAX_POSITIONS as usize
            || tail.generated as usize > tail.history.len()
            || tail.sampling.logit_bias.len() > MAX_LOGIT_BIAS
            || tail.eos.len() > MAX_EOS)
    {
        return Err(DecodeError::field("tail", "a list is too long"));
    }
    answer.check()?;
    if open.tail.is_none() && *answer != AnswerTerms::default() {
        return Err(DecodeError::field("answer", "only the last stage is told"));
    }
    let anew = (resume.rows, resume.downstream, resume.since) == (0, 0, 0);
    let later = resume.since < open.generation.get() || anew;
    if resume.rows >= open.max_positions || resume.downstream > resume.rows || !later {
        return Err(DecodeError::field("resume", format!("{} rows from {}", resume.rows, resume.downstream)));
    }
    // At least one position is left to be computed.
    if open.service.prefix.len() as u64 * u64::from(BLOCK_TOKENS) >= u64::from(open.max_positions) {
        return Err(DecodeError::field("prefix", format!("{} blocks", open.service.prefix.len())));
    }
    Ok(())
});

/// The stage takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Opened {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Digest of the plan as the stage understood it.
    pub digest: ContentHash,
    /// Positions from 0 on whose rows the stage holds already. In a first generation whole blocks of those that were
    /// offered, and the prompt may start at any block up to it; in one that resumes, where the stage goes on.
    pub reusable: Added<u32>,
}
control_message!(Opened, Opened);

/// The stage does not take part.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Refused {
    /// The session.
    pub session: SessionId,
    /// Why.
    pub refusal: Refusal,
}
control_message!(Refused, Refused, |refused: &Refused| check_detail(&refused.refusal.detail));

/// Whether a sampled token ends the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Finish {
    /// The answer goes on.
    No,
    /// The token is an end-of-sequence id.
    Eos,
    /// `max_tokens` or the reserved positions are used up.
    Length,
}

/// A token that the tail sampled: to stage 0, and a copy to the router.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub struct Sampled {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// The token's own position.
    pub position: Position,
    /// The id.
    pub token: u32,
    /// Natural logarithm of its probability under the unmodified logits.
    pub logprob: f32,
    /// Largest minus second largest logit: below the class's error bound another machine may choose differently.
    pub margin: f32,
    /// Whether the answer ends here.
    pub finish: Finish,
    /// If it was asked for: the most likely tokens under the unmodified logits, the likeliest first, each with the
    /// natural logarithm of its probability. The router's copy only.
    pub top: Added<Vec<(u32, f32)>>,
}
control_message!(Sampled, Sampled, |sampled: &Sampled| {
    let count = sampled.top.len();
    if count > usize::from(MAX_TOP_LOGPROBS) {
        return Err(DecodeError::field("top", format!("{count} alternatives")));
    }
    Ok(())
});

/// Sent to the router every 100 ms while a session is open: the stage lives and computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Progress {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Rows applied so far.
    pub applied: Position,
    /// Duration of the last step, microseconds.
    pub step_us: u32,
}
control_message!(Progress, Progress);

/// The stage can't go on with a session.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Failed {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Why.
    pub code: CloseCode,
    /// The node whose loss is reported, if any.
    pub lost: Option<NodeId>,
    /// For people.
    pub detail: String,
}
control_message!(Failed, Failed, |failed: &Failed| check_detail(&failed.detail));

/// A stage's own account of a session that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Ended {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Decode steps that held a row of the session.
    pub decode_steps: u32,
    /// Prompt rows computed.
    pub prefill_rows: u32,
    /// Median compute time of a decode step, microseconds.
    pub decode_us: u32,
    /// Compute time of all prefill steps, microseconds.
    pub prefill_us: u32,
    /// Median time from the end of the upstream stage's compute to the beginning of this stage's, decode only,
    /// microseconds. For stage 0: from the tail's sampling. Clock offset removed, see `docs/PROTOCOL.md`.
    pub hop_us: u32,
    /// Bytes sent downstream for decode rows.
    pub decode_bytes: u64,
    /// Rows computed that the router did not want in the end.
    pub waste_rows: u32,
    /// Prompt rows that were not computed because the stage held them already.
    pub skipped_rows: Added<u32>,
}
control_message!(Ended, Ended);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use crate::status::RefusalCode;

    #[test]
    fn details_can_not_rewrite_a_terminal() {
        let refused = |refusal| Refused { session: SessionId::new(1), refusal };
        let told = refused(Refusal::new(RefusalCode::Other, "a\u{1b}[2J\r\nb\u{9b}"));
        assert_eq!(told.refusal.detail, "a [2J  b ");
        assert_eq!(<Refused as Message>::decode(&Message::encode(&told)), Ok(told));
        let hostile =
            Refusal { code: RefusalCode::Other, detail: "a\u{1b}[2J".into(), retry_after_ms: Added(0) };
        assert!(matches!(
            <Refused as Message>::decode(&Message::encode(&refused(hostile))),
            Err(DecodeError::Field { field: "detail", .. })
        ));
    }
}
