//! Checkpoints (C2SP `tlog-checkpoint`): a tree's size and root, signed by its log and cosigned by witnesses.
//!
//! ```text
//! <origin>
//! <size, decimal>
//! <root, base64>
//! [further lines, opaque]
//! ```
//! One restriction of ours: the origin is the name of the log's key, as the specification recommends. So a checkpoint
//! says by itself whose it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proto::key::NodeKey;
use proto_attest::Digest;

use crate::key::{KeyError, KeyName, SignatureKind, VerifierKey};
use crate::note::{Note, NoteError, SignatureLine};
use crate::{MAX_SIZE, hash};

/// What a log says of its tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which log.
    pub origin: KeyName,
    /// Entries, at most [`MAX_SIZE`].
    pub size: u64,
    /// Root over them.
    pub root: Digest,
}

/// A checkpoint in a note; nothing in it is to be believed before [`SignedCheckpoint::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    note: Note,
    checkpoint: Checkpoint,
}

/// A checkpoint that was checked to be its log's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedCheckpoint {
    signed: SignedCheckpoint,
    key: VerifierKey,
}

/// Why bytes are no checkpoint, or not the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The origin is no name of a key.
    #[error("origin: {0}")]
    Origin(#[from] KeyError),
    /// The size is no decimal number of at most [`MAX_SIZE`], written the one way.
    #[error("no size of a tree")]
    Size,
    /// The root is not base64 of 32 bytes, or not the one of an empty tree.
    #[error("no root of a tree")]
    Root,
    /// An empty line, or one too few.
    #[error("a checkpoint has three lines or more, none of them empty")]
    Lines,
    /// Of another log.
    #[error("checkpoint of another log")]
    OtherLog,
}

impl Checkpoint {
    /// Signs as the log. `None` if the key is not the one that the origin names, or the size is over [`MAX_SIZE`].
    pub fn sign(self, key: &NodeKey) -> Option<VerifiedCheckpoint> {
        let verifier = VerifierKey::new(self.origin.clone(), SignatureKind::Ed25519, key.node_id());
        let text = format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root.as_bytes()));
        // What nobody would read is not signed.
        Self::read(&text).ok()?;
        let mut note = Note::unsigned(text)?;
        let signature = verifier.sign(key, note.text(), 0)?;
        note.push(SignatureLine { name: verifier.name().clone(), id: verifier.id(), signature }).ok()?;
        Some(VerifiedCheckpoint { signed: SignedCheckpoint { note, checkpoint: self }, key: verifier })
    }

    fn read(text: &str) -> Result<Self, CheckpointError> {
        let body = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?;
        let mut lines = body.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty()).ok_or(CheckpointError::Lines);
        let (origin, size, root) = (line()?, line()?, line()?);
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Lines);
        }
        let size = read_size(size).ok_or(CheckpointError::Size)?;
        let root = read_hash(root).ok_or(CheckpointError::Root)?;
        if size == 0 && root != hash::of_nothing() {
            return Err(CheckpointError::Root);
        }
        Ok(Self { origin: origin.parse()?, size, root })
    }
}

impl SignedCheckpoint {
    /// Reads a checkpoint.
    pub fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::read(note.text())?;
        Ok(Self { note, checkpoint })
    }

    /// What it claims.
    pub const fn claimed(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note around it.
    pub const fn note(&self) -> &Note {
        &self.note
    }

    /// The same with the first line that names `key`, and no other.
    #[must_use]
    pub(crate) fn only(&self, key: &VerifierKey) -> Self {
        Self { note: self.note.only(key), checkpoint: self.checkpoint.clone() }
    }

    /// Checks that the log signed it whose key this is.
    pub fn verify(self, log: &VerifierKey) -> Result<VerifiedCheckpoint, CheckpointError> {
        if self.checkpoint.origin != *log.name() || log.kind() != SignatureKind::Ed25519 {
            return Err(CheckpointError::OtherLog);
        }
        self.note.verify(log)?;
        Ok(VerifiedCheckpoint { signed: self, key: log.clone() })
    }
}

impl VerifiedCheckpoint {
    /// What the log says.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.signed.checkpoint
    }

    /// The key of the log.
    pub const fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// The checkpoint in its note.
    pub const fn signed(&self) -> &SignedCheckpoint {
        &self.signed
    }

    /// The bytes to pass on.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.signed.note.to_bytes()
    }

    /// A witness's line below it: that as of `now_unix_s` this is the largest tree of the log that it has seen, and that
    /// it goes on all before. `None` if the secret is not the witness's, or the time is over 2^63 - 1.
    pub(crate) fn cosign(&self, witness: &VerifierKey, secret: &NodeKey, now: u64) -> Option<SignatureLine> {
        let signature = witness.sign(secret, self.signed.note.text(), now)?;
        Some(SignatureLine { name: witness.name().clone(), id: witness.id(), signature })
    }

    /// Adds the cosignature of a witness, which is checked first; the time in it, seconds since the Unix epoch.
    pub fn add_cosignature(&mut self, witness: &VerifierKey, line: SignatureLine) -> Result<u64, NoteError> {
        if line.id != witness.id() || line.name != *witness.name() {
            return Err(NoteError::Unsigned);
        }
        let at = self.signed.note.signatures().len();
        let time = witness.check(self.signed.note.text(), &line.signature).ok_or(NoteError::Forged(at))?;
        self.signed.note.push(line)?;
        Ok(time)
    }

    /// Which of `witnesses` cosigned, with the time, seconds since the Unix epoch; each key once. A line that is forged
    /// counts for nothing.
    pub fn cosigned_by<'a>(&self, witnesses: &'a [VerifierKey]) -> Vec<(&'a VerifierKey, u64)> {
        let mut found: Vec<(&VerifierKey, u64)> = Vec::new();
        for witness in witnesses.iter().filter(|key| key.kind() == SignatureKind::Cosignature) {
            // By the key and not by its name: one key under two names is one witness.
            if found.iter().all(|(known, _)| known.key() != witness.key())
                && let Ok(time) = self.signed.note.verify(witness)
            {
                found.push((witness, time));
            }
        }
        found
    }
}

/// A number of entries: decimal, without sign or leading zeros.
pub(crate) fn read_size(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|&size| plain && size <= MAX_SIZE)
}

/// Base64 of 32 bytes.
pub(crate) fn read_hash(text: &str) -> Option<Digest> {
    // 32 bytes are 44 characters: nothing longer is decoded.
    let bytes = (text.len() == 44).then(|| BASE64.decode(text).ok())??;
    Some(Digest::from_bytes(bytes.try_into().ok()?))
}
