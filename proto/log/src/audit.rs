//! The check of a whole log: entries, tiles and checkpoint, against each other and against checkpoints seen before.
//!
//! The tree is built again from the entries, so memory grows with the logarithm of the log. What is found is the first
//! thing wrong from the left, by name.

use std::collections::BTreeMap;

use proto_attest::Digest;

use crate::TILE_WIDTH;
use crate::bundle::{BundleError, read_bundle};
use crate::checkpoint::VerifiedCheckpoint;
use crate::edge::Edge;
use crate::entry::{Entry, EntryError, EntryKind};
use crate::evidence::{EvidenceError, ForkEvidence};
use crate::hash;
use crate::source::{TileError, TileSource, Tiles, read_hashes, read_tile};
use crate::tile::{TileKind, TilePath};

/// What a log that is in order holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Entries of each kind.
    pub kinds: BTreeMap<EntryKind, u64>,
    /// Entries of later versions or kinds: part of the tree, but not read.
    pub unknown: u64,
}

/// The first thing wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// A tile or bundle is not there, or has not its length.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// A bundle.
    #[error("{path}: {error}")]
    Bundle {
        /// Its name.
        path: TilePath,
        /// What is wrong.
        error: BundleError,
    },
    /// A bundle with another number of entries than its name says.
    #[error("{path} holds {entries} entries")]
    BundleWidth {
        /// Its name.
        path: TilePath,
        /// How many it holds.
        entries: usize,
    },
    /// An entry.
    #[error("entry {index}: {error}")]
    Entry {
        /// Its number in the log.
        index: u64,
        /// What is wrong.
        error: EntryError,
    },
    /// A hash of a tile is not that of what is below it: of the entry beside it at level 0, else of a tile.
    #[error("hash {at} of {path} is not that of what it stands for")]
    Hash {
        /// The tile.
        path: TilePath,
        /// Which of its hashes, from 0.
        at: usize,
    },
    /// Entries and tiles fit each other, and make another tree than the checkpoint says.
    #[error("the {size} entries have root {found}, not the checkpoint's {signed}")]
    Root {
        /// Entries of the checkpoint.
        size: u64,
        /// Root of the entries.
        found: Digest,
        /// Root of the checkpoint.
        signed: Digest,
    },
    /// The log is in order, and contradicts a checkpoint seen before.
    #[error("the log forked: {}", .0.fault())]
    Fork(Box<ForkEvidence>),
    /// The log contradicts a checkpoint seen before, and the evidence could not be made: tiles changed meanwhile.
    #[error("the log forked, but of that no evidence can be made: {0}")]
    Evidence(EvidenceError),
    /// A checkpoint seen before is of a larger tree: this one is old.
    #[error("the checkpoint of {size} entries is older than one of {seen}")]
    Older {
        /// Entries of the checkpoint.
        size: u64,
        /// Entries of the one seen before.
        seen: u64,
    },
    /// A checkpoint seen before is of another log.
    #[error("the checkpoints are of different logs")]
    OtherLog,
}

/// Checks a log: that its entries make the tree of `checkpoint`, that its tiles are those of that tree, and that it goes
/// on the trees of `seen`, in any order.
pub fn audit(
    source: &impl TileSource,
    checkpoint: &VerifiedCheckpoint,
    seen: &[VerifiedCheckpoint],
) -> Result<Audit, AuditError> {
    let mut seen: Vec<&VerifiedCheckpoint> = seen.iter().collect();
    seen.sort_by_key(|seen| seen.checkpoint().size);
    if seen.iter().any(|seen| seen.key() != checkpoint.key()) {
        return Err(AuditError::OtherLog);
    }
    let size = checkpoint.checkpoint().size;
    let (mut edge, mut audit, mut fork) = (Edge::default(), Audit::default(), None);
    let mut ahead = seen.iter().skip_while(|seen| seen.checkpoint().size == 0).peekable();
    for index in 0..size.div_ceil(TILE_WIDTH as u64) {
        for entry in read_entries(source, index, size)? {
            audit.count(&entry, edge.size())?;
            let mut wrong = None;
            edge.push(hash::of_leaf(&entry), |path, hashes| {
                wrong = wrong.take().or_else(|| compare(source, size, path, hashes).err());
            });
            wrong.map_or(Ok(()), Err)?;
            while let Some(before) = ahead.next_if(|seen| seen.checkpoint().size == edge.size()) {
                if before.checkpoint().root != edge.root() {
                    fork = fork.or(Some(before));
                }
            }
        }
    }
    edge.partial().try_for_each(|(path, hashes)| compare(source, size, path, hashes))?;
    let (found, signed) = (edge.root(), checkpoint.checkpoint().root);
    if found != signed {
        return Err(AuditError::Root { size, found, signed });
    }
    if let Some(before) = fork {
        // The tiles were all found right, so they say what the log begins with.
        let tiles = Tiles::new(source, size);
        let (key, before, after) = (checkpoint.key(), before.signed(), checkpoint.signed());
        let evidence = ForkEvidence::from_tiles(key, before, after, &tiles);
        return Err(
            evidence.map_or_else(AuditError::Evidence, |evidence| AuditError::Fork(Box::new(evidence)))
        );
    }
    match ahead.next() {
        Some(newer) => Err(AuditError::Older { size, seen: newer.checkpoint().size }),
        None => Ok(audit),
    }
}

impl Audit {
    fn count(&mut self, entry: &[u8], index: u64) -> Result<(), AuditError> {
        match Entry::decode(entry) {
            Ok(entry) => *self.kinds.entry(entry.kind()).or_default() += 1,
            Err(error) if error.is_unknown() => self.unknown += 1,
            Err(error) => return Err(AuditError::Entry { index, error }),
        }
        Ok(())
    }
}

/// The entries of bundle `index` in a tree of `size` entries.
fn read_entries(source: &impl TileSource, index: u64, size: u64) -> Result<Vec<Vec<u8>>, AuditError> {
    let wanted = TilePath::in_tree(TileKind::Entries, index, size).ok_or(TileError::Range { size })?;
    let (path, bytes) = read_tile(source, wanted)?;
    let entries = read_bundle(&bytes).map_err(|error| AuditError::Bundle { path, error })?;
    if entries.len() != path.width() {
        return Err(AuditError::BundleWidth { path, entries: entries.len() });
    }
    Ok(entries.into_iter().take(wanted.width()).map(<[u8]>::to_vec).collect())
}

/// Whether a tile of the log holds these hashes.
fn compare(source: &impl TileSource, size: u64, path: TilePath, hashes: &[Digest]) -> Result<(), AuditError> {
    let stored = read_hashes(source, size, path.kind().level(), path.index())?;
    match stored.iter().zip(hashes).position(|(stored, hash)| stored != hash) {
        Some(at) => Err(AuditError::Hash { path, at }),
        None => Ok(()),
    }
}
