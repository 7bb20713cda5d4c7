//! Tests of the parts together, and what they share: keys, logs of made-up entries, files in memory.

use std::collections::BTreeMap;

use proto::key::NodeKey;
use proto::{ContentHash, Generation, ModelId, SessionId};
use proto_attest::Digest;

use crate::entry::{ModelManifest, SessionRoot};
use crate::{
    Entry, KeyName, Log, MAX_BATCH, SignedCheckpoint, TilePath, Tiles, VerifiedCheckpoint, VerifierKey,
};

mod forks;
mod golden;
mod logs;
mod mutations;
mod notes;
mod trees;

/// Files in memory.
pub(crate) type Files = BTreeMap<TilePath, Vec<u8>>;

/// The log's key of the golden files.
pub(crate) fn log_key() -> NodeKey {
    NodeKey::from_seed(&[7; 32])
}

/// The witness's key of the golden files.
pub(crate) fn witness_key() -> NodeKey {
    NodeKey::from_seed(&[8; 32])
}

/// The public key of the log.
pub(crate) fn log_verifier() -> VerifierKey {
    VerifierKey::of_log(log_key().node_id())
}

/// An entry that depends on its number, and on which of several logs it is in.
pub(crate) fn entry(index: u64, variant: u8) -> Entry {
    if index.is_multiple_of(16) {
        return Entry::ModelManifest(ModelManifest {
            model: ModelId::from_bytes([variant; 32]),
            manifest_bytes: index as u32,
            listed_unix_s: 1_790_000_000,
            name: format!("model-{index}"),
        });
    }
    Entry::SessionRoot(SessionRoot {
        session: SessionId::new(index),
        generation: Generation::new(0),
        open: Digest::from_bytes([variant; 32]),
        evidence: ContentHash::of(&index.to_le_bytes()),
        model: ModelId::from_bytes([3; 32]),
        ended_unix_s: 1_790_000_000 + index,
    })
}

/// A log with its files.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    pub(crate) log: Log,
    pub(crate) files: Files,
}

impl Kept {
    /// A log of so many entries.
    pub(crate) fn of(size: u64) -> Self {
        let mut kept = Self::default();
        kept.grow(size, 0);
        kept
    }

    /// Appends up to so many entries.
    pub(crate) fn grow(&mut self, size: u64, variant: u8) {
        let entries: Vec<Entry> = (self.log.size()..size).map(|index| entry(index, variant)).collect();
        for batch in entries.chunks(MAX_BATCH) {
            let appended = self.log.append(batch).unwrap();
            self.files.extend(appended.writes.into_iter().map(|write| (write.path, write.bytes)));
        }
    }

    /// What proofs are made of.
    pub(crate) fn tiles(&self) -> Tiles<'_, Files> {
        Tiles::new(&self.files, self.log.size())
    }

    /// What the log signs now.
    pub(crate) fn sign(&self) -> VerifiedCheckpoint {
        self.log.checkpoint(KeyName::of_log(log_key().node_id())).sign(&log_key()).unwrap()
    }
}

/// Reads a checkpoint and checks that it is the log's.
pub(crate) fn open(bytes: &[u8]) -> Option<VerifiedCheckpoint> {
    SignedCheckpoint::parse(bytes).ok()?.verify(&log_verifier()).ok()
}
