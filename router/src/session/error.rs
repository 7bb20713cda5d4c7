//! Why an answer could not be completed. Each case names the stage: node, layers and address.

use std::time::Duration;

use proto::NodeId;
use proto::status::{CloseCode, Refusal, RefusalCode};

use super::StageLabel;

/// Why an answer could not be completed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionError {
    /// A stage does not take part.
    #[error("{stage} refused the session: {refusal}")]
    Refused {
        /// Which.
        stage: StageLabel,
        /// Why.
        refusal: Refusal,
    },
    /// A stage could not be asked.
    #[error("{stage} can't be reached: {why}")]
    Unreachable {
        /// Which.
        stage: StageLabel,
        /// Why.
        why: String,
    },
    /// A stage understood another plan than the one sent.
    #[error("{stage} answered with the digest of another plan")]
    WrongDigest {
        /// Which.
        stage: StageLabel,
    },
    /// The connection to a stage is gone, by ourselves or by a neighbour's word.
    #[error("{stage} was lost: {why}")]
    Lost {
        /// Which.
        stage: StageLabel,
        /// How it was noticed.
        why: String,
    },
    /// A stage is connected but does not get on.
    #[error("{stage} was lost: stalled, {why}")]
    Stalled {
        /// Which.
        stage: StageLabel,
        /// What was waited for.
        why: String,
    },
    /// A stage says of another one that it is lost, or sends what it should not, though both are heard: which of them is
    /// to blame nobody can tell.
    #[error("{stage} is at fault, or {by}, who says so: {why}")]
    Parted {
        /// Who is accused.
        stage: StageLabel,
        /// Who says so.
        by: Box<StageLabel>,
        /// How it was noticed.
        why: String,
    },
    /// A stage is about to leave: its node drains.
    #[error("{stage} is leaving")]
    Leaving {
        /// Which.
        stage: StageLabel,
    },
    /// A stage gave up.
    #[error("{stage} gave up: {code}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    GaveUp {
        /// Which.
        stage: StageLabel,
        /// Why.
        code: CloseCode,
        /// In its own words.
        detail: String,
    },
    /// A stage broke the protocol.
    #[error("{stage} broke the protocol: {what}")]
    Violation {
        /// Which.
        stage: StageLabel,
        /// What it did.
        what: String,
    },
    /// The answer broke off, and nobody else could take it up.
    #[error("{lost}; it could not go on elsewhere: {why}")]
    BrokenOff {
        /// What befell it.
        lost: Box<Self>,
        /// Why there is no other route.
        why: String,
    },
    /// The request's own time limit.
    #[error("no complete answer within {} s", .after.as_secs_f64())]
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// This router is shutting down.
    #[error("the router is shutting down")]
    ShuttingDown,
}

impl SessionError {
    /// The stage to blame, if one is.
    pub fn stage(&self) -> Option<&StageLabel> {
        match self {
            Self::Refused { stage, .. }
            | Self::Unreachable { stage, .. }
            | Self::WrongDigest { stage }
            | Self::Lost { stage, .. }
            | Self::Stalled { stage, .. }
            | Self::Parted { stage, .. }
            | Self::Leaving { stage }
            | Self::GaveUp { stage, .. }
            | Self::Violation { stage, .. } => Some(stage),
            Self::BrokenOff { lost, .. } => lost.stage(),
            Self::TimedOut { .. } | Self::ShuttingDown => None,
        }
    }

    /// When the node that refused says that it may be worth asking again. Any number: it is a stranger's.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { refusal, .. } if *refusal.retry_after_ms > 0 => {
                Some(Duration::from_millis(u64::from(*refusal.retry_after_ms)))
            }
            _ => None,
        }
    }

    /// The other one that may be to blame.
    pub fn also(&self) -> Option<NodeId> {
        match self {
            Self::Parted { by, .. } => Some(by.at.node),
            _ => None,
        }
    }

    /// The node that another route should do without; `None` if another route would not help.
    pub fn avoid(&self) -> Option<NodeId> {
        let hopeless = match self {
            Self::Refused { refusal, .. } => matches!(
                refusal.code,
                RefusalCode::TooLong
                    | RefusalCode::BadPlan
                    | RefusalCode::BadSampling
                    | RefusalCode::BadGrammar
            ),
            // Its grammar is the request's.
            Self::GaveUp { code, .. } => *code == CloseCode::Grammar,
            _ => false,
        };
        if hopeless { None } else { self.stage().map(|stage| stage.at.node) }
    }
}
