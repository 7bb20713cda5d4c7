//! How an auditor has a node open what it signed for. As in [`attest`](crate::attest) statements are bytes here.
//!
//! ```text
//! AuditRequest{commitment to a seed, epoch} --> AuditBatch{signed root over the epoch's receipts, their digests}
//! Challenge{seed, deadline, signed}         --> Challenged
//! OpenRows{receipt, side}                   --> BlobStart, BlobPart ..  |  NotFound
//! ```

use bincode::{Decode, Encode};

use crate::DecodeError;
use crate::message::control_message;

/// Most receipts of a batch: a node begins another epoch behind them.
pub const MAX_BATCH: usize = 4096;

/// Asks for the receipts that a node signed in an epoch; if it is the present one, it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct AuditRequest {
    /// A commitment to the seed that will choose among them.
    pub commit: [u8; 32],
    /// Which epoch.
    pub epoch: u64,
}
control_message!(AuditRequest, AuditRequest);

/// All receipts of an epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct AuditBatch {
    /// The `SignedBatch`; empty if the node knows nothing of that epoch any more.
    pub batch: Vec<u8>,
    /// Digests of the receipts in the order in which they were signed, at most [`MAX_BATCH`].
    pub receipts: Vec<[u8; 32]>,
}
control_message!(AuditBatch, AuditBatch, |batch: &AuditBatch| {
    let count = batch.receipts.len();
    if count > MAX_BATCH {
        return Err(DecodeError::field("receipts", format!("{count} receipts")));
    }
    Ok(())
});

/// Reveals the seed: what it chooses, and what that follows from, is to be opened.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Challenge {
    /// Of which epoch.
    pub epoch: u64,
    /// The `SignedChallenge`.
    pub challenge: Vec<u8>,
}
control_message!(Challenge, Challenge);

/// Whether the node opens what was chosen.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Challenged {
    /// Why it does not, in words; empty if it does.
    pub refusal: String,
}
control_message!(Challenged, Challenged);

/// Asks for the rows on one side of a receipt that is to be opened, all of them in order: as they were on the wire, and
/// tokens of 4 bytes where stage 0 received them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct OpenRows {
    /// The receipt's digest.
    pub receipt: [u8; 32],
    /// 1: the rows received; 2: those sent.
    pub side: u8,
    /// Digest of the open that it was signed under: who does not know the session is not shown its rows.
    pub open: [u8; 32],
}
control_message!(OpenRows, OpenRows, |open: &OpenRows| {
    if !matches!(open.side, 1 | 2) {
        return Err(DecodeError::field("side", format!("{}", open.side)));
    }
    Ok(())
});
