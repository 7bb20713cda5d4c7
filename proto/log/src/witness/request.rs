//! The request of C2SP `tlog-witness`: a checkpoint, and the proof that it goes on a tree that the witness has seen.
//!
//! ```text
//! old <size>
//! <hash, base64>        at most 63 of these
//!
//! <checkpoint>
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proto_attest::Digest;

use crate::checkpoint::{CheckpointError, SignedCheckpoint, VerifiedCheckpoint, read_hash, read_size};
use crate::note::MAX_NOTE_BYTES;
use crate::proof::MAX_PROOF;

/// Largest request: a note, and a proof with lines of 45 bytes.
pub const MAX_REQUEST_BYTES: usize = MAX_NOTE_BYTES + MAX_PROOF * 45 + 32;

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddCheckpoint {
    /// Entries of the tree from which the proof goes; 0 for the first request.
    pub old_size: u64,
    /// From there to the checkpoint, see [`check_consistency`](crate::proof::check_consistency).
    pub proof: Vec<Digest>,
    /// What is to be cosigned.
    pub checkpoint: SignedCheckpoint,
}

/// Why bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Over [`MAX_REQUEST_BYTES`].
    #[error("request of {0} bytes, at most {MAX_REQUEST_BYTES} are allowed")]
    TooLong(usize),
    /// No UTF-8, or no proof and checkpoint with an empty line between them.
    #[error("the request has no proof with a checkpoint below it")]
    Form,
    /// The first line.
    #[error("the first line is not `old` and a size")]
    Old,
    /// A hash, or more than 63 of them.
    #[error("line {0} is no hash, or one too many")]
    Proof(usize),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl AddCheckpoint {
    /// The request for a log's own checkpoint.
    pub fn new(old_size: u64, proof: Vec<Digest>, checkpoint: &VerifiedCheckpoint) -> Self {
        Self { old_size, proof, checkpoint: checkpoint.signed().clone() }
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("old {}\n", self.old_size);
        for hash in &self.proof {
            text.push_str(&BASE64.encode(hash.as_bytes()));
            text.push('\n');
        }
        text.push('\n');
        [text.into_bytes(), self.checkpoint.note().to_bytes()].concat()
    }

    /// Reads a request.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLong(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|_| RequestError::Form)?;
        // Neither has the proof empty lines nor does a checkpoint begin with one.
        let (head, checkpoint) = text.split_once("\n\n").ok_or(RequestError::Form)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old_size = old.and_then(read_size).ok_or(RequestError::Old)?;
        let mut proof = Vec::new();
        for (index, line) in lines.enumerate() {
            let hash = read_hash(line).filter(|_| index < MAX_PROOF);
            proof.push(hash.ok_or(RequestError::Proof(index))?);
        }
        let checkpoint = SignedCheckpoint::parse(checkpoint.as_bytes())?;
        Ok(Self { old_size, proof, checkpoint })
    }
}
