//! Portable evidence of a fork: two statements under one key that no one append-only log bears out.
//!
//! ```text
//! "LLFK" | version 1 u16 | kind u8 | key: length u16, text | first note: length u32, bytes | second note: likewise
//! kind 1  two roots of one size                      notes in order of their roots
//! kind 2  the larger tree begins with another tree   the smaller first; then root 32 | count u8 | hashes 32 each
//! ```
//! Numbers are little-endian. The key is the log's, or that of a witness that cosigned both. Kind 2 holds the root that
//! as many entries of the larger tree have, and the proof of it: who finds that proof for a root that was not signed has
//! found a collision of SHA-256. A proof that leads nowhere is no evidence, as anybody can make one up.
//!
//! A value of [`ForkEvidence`] is a fork that was checked: there is no other way to get one. Whether the key is that of
//! anybody one knows, the reader must compare.

use std::fmt;

use proto_attest::Digest;

use crate::checkpoint::{Checkpoint, CheckpointError, SignedCheckpoint};
use crate::key::{KeyError, SignatureKind, VerifierKey};
use crate::note::MAX_NOTE_BYTES;
use crate::proof::{ConsistencyError, MAX_PROOF, check_consistency, prove_consistency};
use crate::source::{TileError, TileSource, Tiles};

/// Largest evidence: two notes, a key and a proof.
pub const MAX_EVIDENCE_BYTES: usize = 2 * MAX_NOTE_BYTES + 4096;

/// A fork, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForkEvidence {
    key: VerifierKey,
    first: SignedCheckpoint,
    second: SignedCheckpoint,
    prefix: Option<Prefix>,
}

/// With what the larger tree begins.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Prefix {
    root: Digest,
    proof: Vec<Digest>,
}

/// Whose fault a fork is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The key at fault: of the log, or of a witness.
    pub key: VerifierKey,
    /// What it signed first; with two roots of one size, the one with the lower root.
    pub first: Checkpoint,
    /// What it signed besides.
    pub second: Checkpoint,
}

/// Why something is no evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Over [`MAX_EVIDENCE_BYTES`].
    #[error("evidence of {0} bytes, at most {MAX_EVIDENCE_BYTES} are allowed")]
    TooLong(usize),
    /// Not a file of this kind, or one of another version.
    #[error("no evidence of a fork, or of another version")]
    Magic,
    /// The bytes end too early or go on after the end.
    #[error("the evidence is cut short, or something is left over")]
    Layout,
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A checkpoint in it, or its signature.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Two logs, or the key of another log.
    #[error("the checkpoints are not of one log, or the key is another log's")]
    OtherLog,
    /// In another order than the one way to write it.
    #[error("the checkpoints are not in order")]
    Order,
    /// The proof does not belong to the larger tree.
    #[error(transparent)]
    Proof(#[from] ConsistencyError),
    /// The tiles to make a proof of.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// One tree may well go on the other.
    #[error("the checkpoints do not contradict each other")]
    NoFork,
}

impl ForkEvidence {
    /// Of two roots of one size under `key`.
    pub fn same_size(
        key: &VerifierKey,
        one: &SignedCheckpoint,
        other: &SignedCheckpoint,
    ) -> Result<Self, EvidenceError> {
        let swapped = one.claimed().root > other.claimed().root;
        let (first, second) = if swapped { (other, one) } else { (one, other) };
        Self { key: key.clone(), first: first.only(key), second: second.only(key), prefix: None }.checked()
    }

    /// Of a `larger` tree that begins with `root` where `smaller` says another; `proof` is the one of `root`.
    pub fn prefix(
        key: &VerifierKey,
        smaller: &SignedCheckpoint,
        larger: &SignedCheckpoint,
        root: Digest,
        proof: Vec<Digest>,
    ) -> Result<Self, EvidenceError> {
        let (first, second) = (smaller.only(key), larger.only(key));
        Self { key: key.clone(), first, second, prefix: Some(Prefix { root, proof }) }.checked()
    }

    /// Of a `larger` tree, whose tiles these are, that does not begin with what `smaller` says.
    pub fn from_tiles(
        key: &VerifierKey,
        smaller: &SignedCheckpoint,
        larger: &SignedCheckpoint,
        tiles: &Tiles<'_, impl TileSource>,
    ) -> Result<Self, EvidenceError> {
        let (old, new) = (smaller.claimed().size, larger.claimed().size);
        // The empty tree begins every other one.
        if old == 0 || old == new {
            return Self::same_size(key, smaller, larger);
        }
        let proof = prove_consistency(tiles, old, new)?;
        Self::prefix(key, smaller, larger, tiles.node(0, old)?, proof)
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        Fault {
            key: self.key.clone(),
            first: self.first.claimed().clone(),
            second: self.second.claimed().clone(),
        }
    }

    /// The bytes to show to anybody.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(if self.prefix.is_some() { 2 } else { 1 });
        let key = self.key.to_string();
        bytes.extend((key.len() as u16).to_le_bytes());
        bytes.extend(key.as_bytes());
        for checkpoint in [&self.first, &self.second] {
            let note = checkpoint.note().to_bytes();
            bytes.extend((note.len() as u32).to_le_bytes());
            bytes.extend(note);
        }
        if let Some(Prefix { root, proof }) = &self.prefix {
            bytes.extend(root.as_bytes());
            bytes.push(proof.len() as u8);
            for hash in proof {
                bytes.extend(hash.as_bytes());
            }
        }
        bytes
    }

    /// Reads evidence and checks it.
    pub fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(EvidenceError::TooLong(bytes.len()));
        }
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(EvidenceError::Magic)?;
        let kind = u8::from_le_bytes(take(&mut rest)?);
        let length = u16::from_le_bytes(take(&mut rest)?).into();
        let key = str::from_utf8(take_slice(&mut rest, length)?).map_err(|_| EvidenceError::Layout)?;
        let key: VerifierKey = key.parse()?;
        let mut checkpoint = || {
            let length = u32::from_le_bytes(take(&mut rest)?) as usize;
            Ok::<_, EvidenceError>(SignedCheckpoint::parse(take_slice(&mut rest, length)?)?)
        };
        let (first, second) = (checkpoint()?, checkpoint()?);
        let prefix = match kind {
            1 => None,
            2 => {
                let root = Digest::from_bytes(take(&mut rest)?);
                let count = usize::from(u8::from_le_bytes(take(&mut rest)?));
                if count > MAX_PROOF {
                    return Err(EvidenceError::Layout);
                }
                let proof =
                    (0..count).map(|_| take(&mut rest).map(Digest::from_bytes)).collect::<Result<_, _>>()?;
                Some(Prefix { root, proof })
            }
            _ => return Err(EvidenceError::Magic),
        };
        if !rest.is_empty() {
            return Err(EvidenceError::Layout);
        }
        Self { key, first, second, prefix }.checked()
    }

    fn checked(self) -> Result<Self, EvidenceError> {
        let (first, second) = (self.first.claimed(), self.second.claimed());
        let own = self.key.kind() == SignatureKind::Cosignature || first.origin == *self.key.name();
        if first.origin != second.origin || !own {
            return Err(EvidenceError::OtherLog);
        }
        for checkpoint in [&self.first, &self.second] {
            checkpoint.note().verify(&self.key).map_err(CheckpointError::Note)?;
            // Signatures of others have no place in it, so that each fork has one file.
            if *checkpoint != checkpoint.only(&self.key) {
                return Err(EvidenceError::Order);
            }
        }
        let Some(Prefix { root, proof }) = &self.prefix else {
            if first.size != second.size || first.root == second.root {
                return Err(EvidenceError::NoFork);
            }
            return if first.root < second.root { Ok(self) } else { Err(EvidenceError::Order) };
        };
        if first.size >= second.size {
            return Err(EvidenceError::Order);
        }
        check_consistency((first.size, root), (second.size, &second.root), proof)?;
        if *root == first.root { Err(EvidenceError::NoFork) } else { Ok(self) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, first, second } = self;
        write!(f, "{key} signed for {}: ", first.origin)?;
        if first.size == second.size {
            write!(f, "two trees of {} entries, with roots {} and {}", first.size, first.root, second.root)
        } else {
            write!(f, "a tree of {} entries that does not go on its tree of {}", second.size, first.size)
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], EvidenceError> {
    let (array, left) = rest.split_first_chunk().ok_or(EvidenceError::Layout)?;
    *rest = left;
    Ok(*array)
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], EvidenceError> {
    let (slice, left) = rest.split_at_checked(length).ok_or(EvidenceError::Layout)?;
    *rest = left;
    Ok(slice)
}

const MAGIC: &[u8] = b"LLFK\x01\x00";
