//! What a session's hops sign, as it travels. The statements themselves are bytes here: what they say, and whether they
//! hold, is `proto-attest`'s affair.

use bincode::{Decode, Encode};

use crate::message::control_message;
use crate::{DecodeError, Generation, SessionId};

/// Asks a node which keys are bound to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct KeysRequest;
control_message!(KeysRequest, KeysRequest);

/// The keys bound to a node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Keys {
    /// A `SignedBinding`; empty if the node signs no receipts.
    pub binding: Vec<u8>,
}
control_message!(Keys, Keys, |keys: &Keys| at_most("binding", &keys.binding, MAX_BINDING));

/// What a stage is asked to sign for, once all have opened; router to each of them.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Attest {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// The router's `SignedBinding`.
    pub binding: Vec<u8>,
    /// The `SignedOpen`.
    pub open: Vec<u8>,
    /// For the tail: what hides the seed in the open's commitment to it.
    pub salt: Option<[u8; 32]>,
}
control_message!(Attest, Attest, |attest: &Attest| at_most("binding", &attest.binding, MAX_BINDING));

/// A stage signs that it takes part as the open says.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Acknowledged {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// A `SignedAck`.
    pub ack: Vec<u8>,
}
control_message!(Acknowledged, Acknowledged);

/// A stage signs for rows.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Receipt {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// A `SignedReceipt`.
    pub receipt: Vec<u8>,
}
control_message!(Receipt, Receipt);

/// Leaves of rows that a stage sent shortly before a generation ended.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SentRows {
    /// The session.
    pub session: SessionId,
    /// Its generation.
    pub generation: Generation,
    /// `SentLeaves`.
    pub leaves: Vec<u8>,
}
control_message!(SentRows, SentRows);

/// Twice what a binding takes today.
const MAX_BINDING: usize = 512;

fn at_most(field: &'static str, bytes: &[u8], most: usize) -> Result<(), DecodeError> {
    if bytes.len() > most {
        return Err(DecodeError::field(field, format!("{} bytes", bytes.len())));
    }
    Ok(())
}
