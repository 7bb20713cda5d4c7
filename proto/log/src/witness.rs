//! A witness (C2SP `tlog-witness`): of each log it remembers the last tree that it saw, and cosigns only what goes on it.
//!
//! ```text
//!              watch                 add_checkpoint: fits                   add_checkpoint: contradicts
//! (unknown) ----------> nothing seen ----------------------> last tree n ---------------------------------> forked
//!                                                            ^         |                                      |
//!                                                            +--fits---+             every request: the evidence again
//! ```
//! Of a fork nothing is forgotten: the log gets no cosignature of this witness ever again, and the evidence convinces
//! anybody without trust in the witness.

use std::collections::BTreeMap;

use proto::key::NodeKey;

use crate::checkpoint::{CheckpointError, SignedCheckpoint, VerifiedCheckpoint};
use crate::evidence::ForkEvidence;
use crate::key::{KeyName, SignatureKind, VerifierKey};
use crate::note::SignatureLine;
use crate::proof::{ConsistencyError, check_consistency};

mod request;

pub use request::{AddCheckpoint, MAX_REQUEST_BYTES, RequestError};

/// Most logs that a witness watches; each costs some kilobytes. One log is a router, of which a swarm has fewer by far.
pub const MAX_LOGS: usize = 4096;

/// A witness. `Debug` shows no secret.
#[derive(Debug)]
pub struct Witness {
    key: VerifierKey,
    secret: NodeKey,
    logs: BTreeMap<KeyName, Watched>,
}

/// What a witness knows of a log.
#[derive(Debug)]
struct Watched {
    key: VerifierKey,
    state: State,
}

#[derive(Debug)]
enum State {
    Nothing,
    Last(Box<VerifiedCheckpoint>),
    Forked(Box<ForkEvidence>),
}

/// What a witness does about a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It fits: first keep `record` in place of the log's record before, then answer with the line. Whoever fails to
    /// keep it answers nothing.
    Cosigned {
        /// For [`Witness::restore`].
        record: Vec<u8>,
        /// The answer.
        line: SignatureLine,
    },
    /// It does not, and that says nothing against the log.
    Refused(WitnessRefusal),
    /// The log forked. Keep the evidence for [`Witness::restore_fork`], log it as an error, show it to anybody.
    Forked(Box<ForkEvidence>),
}

/// Why a witness cosigns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WitnessRefusal {
    /// The bytes are no request.
    #[error("the request does not parse: {0}")]
    Request(#[from] RequestError),
    /// The log is not watched.
    #[error("the log is not watched")]
    UnknownLog,
    /// Not signed by the log.
    #[error("not signed by the log: {0}")]
    NotByLog(CheckpointError),
    /// The proof goes from a larger tree to a smaller one.
    #[error("the old size is over the new one")]
    Sizes,
    /// The proof starts elsewhere than at the last tree: ask again from there.
    #[error("the last tree seen has {latest} entries")]
    Conflict {
        /// Entries of the last tree seen; 0 if there is none.
        latest: u64,
    },
    /// The proof shows nothing.
    #[error("the proof does not show that the log only grew: {0}")]
    Inconsistent(ConsistencyError),
    /// The time is none that a cosignature may have.
    #[error("no time for a cosignature")]
    Time,
}

/// Why a log is not watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// It would be one more than [`MAX_LOGS`].
    #[error("{MAX_LOGS} logs are watched already")]
    TooMany,
    /// Logs sign with [`SignatureKind::Ed25519`].
    #[error("not the key of a log")]
    NotALog,
    /// A log of this name is watched with another key.
    #[error("a log of this name has another key")]
    OtherKey,
    /// A record of a log that is not watched, or evidence against none.
    #[error("the record is of no log that is watched")]
    UnknownLog,
    /// A record that does not parse, or was not signed by the log.
    #[error(transparent)]
    Record(#[from] CheckpointError),
}

impl Witness {
    /// A witness that cosigns as the node whose key this is, and watches nothing.
    pub fn new(secret: NodeKey) -> Self {
        Self { key: VerifierKey::of_witness(secret.node_id()), secret, logs: BTreeMap::new() }
    }

    /// The key of its cosignatures.
    pub const fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Watches a log from now on. Nothing changes if it did already.
    pub fn watch(&mut self, log: VerifierKey) -> Result<(), WatchError> {
        if log.kind() != SignatureKind::Ed25519 {
            return Err(WatchError::NotALog);
        }
        match self.logs.get(log.name()) {
            Some(watched) if watched.key == log => Ok(()),
            Some(_) => Err(WatchError::OtherKey),
            None if self.logs.len() >= MAX_LOGS => Err(WatchError::TooMany),
            None => {
                self.logs.insert(log.name().clone(), Watched { key: log, state: State::Nothing });
                Ok(())
            }
        }
    }

    /// Takes up a record that was kept of a watched log, as after a restart. A fork stays a fork, and nothing goes back to
    /// a smaller tree than the last one seen.
    pub fn restore(&mut self, record: &[u8]) -> Result<(), WatchError> {
        let checkpoint = SignedCheckpoint::parse(record)?;
        let watched = self.logs.get_mut(&checkpoint.claimed().origin).ok_or(WatchError::UnknownLog)?;
        let checkpoint = checkpoint.verify(&watched.key)?;
        let newer = match &watched.state {
            State::Nothing => true,
            State::Last(last) => last.checkpoint().size < checkpoint.checkpoint().size,
            State::Forked(_) => false,
        };
        if newer {
            watched.state = State::Last(Box::new(checkpoint));
        }
        Ok(())
    }

    /// Takes up evidence against a watched log: one's own after a restart, or another's.
    pub fn restore_fork(&mut self, evidence: ForkEvidence) -> Result<(), WatchError> {
        let key = evidence.fault().key;
        let watched = self.logs.get_mut(key.name()).ok_or(WatchError::UnknownLog)?;
        if watched.key != key {
            return Err(WatchError::UnknownLog);
        }
        watched.state = State::Forked(Box::new(evidence));
        Ok(())
    }

    /// Entries of the last tree seen of a log; `None` if it is not watched or forked.
    pub fn latest(&self, log: &KeyName) -> Option<u64> {
        match &self.logs.get(log)?.state {
            State::Nothing => Some(0),
            State::Last(last) => Some(last.checkpoint().size),
            State::Forked(_) => None,
        }
    }

    /// Decides about a request (`add-checkpoint`) that came at `now_unix_s`, seconds since the Unix epoch.
    pub fn add_checkpoint(&mut self, request: &[u8], now_unix_s: u64) -> Decision {
        match self.decide(request, now_unix_s) {
            Ok(decision) => decision,
            Err(refusal) => Decision::Refused(refusal),
        }
    }

    fn decide(&mut self, request: &[u8], now_unix_s: u64) -> Result<Decision, WitnessRefusal> {
        let AddCheckpoint { old_size, proof, checkpoint } = AddCheckpoint::parse(request)?;
        let watched = self.logs.get_mut(&checkpoint.claimed().origin).ok_or(WitnessRefusal::UnknownLog)?;
        // Of others' lines nothing is known, and they are not kept.
        let new = checkpoint.only(&watched.key).verify(&watched.key).map_err(WitnessRefusal::NotByLog)?;
        let forked = |evidence: Box<ForkEvidence>| Ok(Decision::Forked(evidence));
        let last = match &watched.state {
            State::Forked(evidence) => return forked(evidence.clone()),
            State::Nothing => None,
            State::Last(last) => Some(last),
        };
        // Two roots of one size speak for themselves, whatever proof comes with them.
        let contradiction =
            last.and_then(|last| ForkEvidence::same_size(&watched.key, last.signed(), new.signed()).ok());
        if let Some(evidence) = contradiction.map(Box::new) {
            watched.state = State::Forked(evidence.clone());
            return forked(evidence);
        }
        let size = new.checkpoint().size;
        if old_size > size {
            return Err(WitnessRefusal::Sizes);
        }
        let latest = last.map_or(0, |last| last.checkpoint().size);
        if old_size != latest {
            return Err(WitnessRefusal::Conflict { latest });
        }
        let empty = crate::hash::of_nothing();
        let old_root = last.map_or(&empty, |last| &last.checkpoint().root);
        match (check_consistency((latest, old_root), (size, &new.checkpoint().root), &proof), last) {
            (Ok(()), _) => {}
            (Err(ConsistencyError::OldRoot { prefix }), Some(last)) => {
                let evidence = ForkEvidence::prefix(&watched.key, last.signed(), new.signed(), prefix, proof);
                let refusal = WitnessRefusal::Inconsistent(ConsistencyError::OldRoot { prefix });
                let evidence = Box::new(evidence.map_err(|_| refusal)?);
                watched.state = State::Forked(evidence.clone());
                return forked(evidence);
            }
            (Err(error), _) => return Err(WitnessRefusal::Inconsistent(error)),
        }
        let line = new.cosign(&self.key, &self.secret, now_unix_s).ok_or(WitnessRefusal::Time)?;
        let record = new.to_bytes();
        watched.state = State::Last(Box::new(new));
        Ok(Decision::Cosigned { record, line })
    }
}

impl WitnessRefusal {
    /// The HTTP status that the specification gives it.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Request(_) | Self::Sizes => 400,
            Self::NotByLog(_) => 403,
            Self::UnknownLog => 404,
            Self::Conflict { .. } => 409,
            Self::Inconsistent(_) => 422,
            Self::Time => 500,
        }
    }
}

#[cfg(test)]
mod tests;
