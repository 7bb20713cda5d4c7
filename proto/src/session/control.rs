//! What a router tells a stage of an open session: frames of its control stream, one-way and never answered.

use bincode::{Decode, Encode};

use super::{MAX_POSITIONS, PlanStage};
use crate::message::control_message;
use crate::status::CloseCode;
use crate::{DecodeError, Generation, Position, SessionId};

/// Tokens to prefill, router to stage 0; the last one is sampled from. To one that stands by, in portions.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Tokens {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Position of the first token.
    pub start: Position,
    /// The ids.
    pub tokens: Vec<u32>,
}
control_message!(Tokens, Tokens, |tokens: &Tokens| {
    let count = tokens.tokens.len();
    if count == 0 || count > MAX_POSITIONS as usize {
        return Err(DecodeError::field("tokens", format!("{count} tokens")));
    }
    Ok(())
});

/// How far stage 0 may run ahead; to every stage it also renews the lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Credit {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// No row at or beyond this position may be started.
    pub run_until: Position,
}
control_message!(Credit, Credit);

/// Ends a session on a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Close {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Why.
    pub code: CloseCode,
}
control_message!(Close, Close);

/// Another node stands by for the stage after the receiver: it is sent what that one is sent, in the background.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Follow {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// Who stands by, and for which layers.
    pub standby: PlanStage,
    /// The first row that it lacks.
    pub from: Position,
}
control_message!(Follow, Follow);
