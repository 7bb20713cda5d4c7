//! A log as its router keeps it: entries in, files out. It holds the right edge of the tree alone.
//!
//! What is signed can't be taken back, so the shell keeps an order: the writes of [`Log::append`], then the checkpoint
//! in a file of its own, synced, and only then is the checkpoint shown to anybody. After a crash [`Log::resume`] starts
//! from the checkpoint kept; tiles beyond it are written again. A checkpoint that was shown and lost would make the
//! next one a fork.

use proto_attest::Digest;

use crate::bundle::{BundleError, read_bundle, write_entry};
use crate::checkpoint::{Checkpoint, VerifiedCheckpoint};
use crate::edge::Edge;
use crate::entry::{Entry, EntryError};
use crate::key::KeyName;
use crate::source::{TileError, TileSource, read_tile};
use crate::tile::{TileKind, TilePath};
use crate::{MAX_SIZE, TILE_WIDTH, hash};

/// Most entries of one batch: some 4 MiB at most.
pub const MAX_BATCH: usize = 4096;

/// A log that grows.
#[derive(Clone, Debug, Default)]
pub struct Log {
    edge: Edge,
    /// The bundle that is not full yet.
    bundle: Vec<u8>,
}

/// A file to write. What is under the name already may be replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Its name.
    pub path: TilePath,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What an append asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Number of the first entry of the batch.
    pub first: u64,
    /// Files of the tree after the batch. Partial ones that they replace may be deleted once the next checkpoint is kept.
    pub writes: Vec<Write>,
}

/// Why nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// More than [`MAX_BATCH`].
    #[error("{0} entries at once, at most {MAX_BATCH} are allowed")]
    Batch(usize),
    /// The tree would be over [`MAX_SIZE`].
    #[error("the log is full")]
    Full,
    /// An entry breaks a limit.
    #[error("entry {index} of the batch: {error}")]
    Entry {
        /// Which one of the batch.
        index: usize,
        /// Why.
        error: EntryError,
    },
}

/// Why a log does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// A tile or bundle is not there.
    #[error(transparent)]
    Tile(#[from] TileError),
    /// The last bundle.
    #[error("{path}: {error}")]
    Bundle {
        /// Its name.
        path: TilePath,
        /// What is wrong.
        error: BundleError,
    },
    /// The last bundle holds other entries than the tree.
    #[error("{0} is not of this tree")]
    OtherBundle(TilePath),
    /// The tiles make another tree than the checkpoint says.
    #[error("the tiles have another root than the checkpoint of {size} entries")]
    Root {
        /// Entries of the checkpoint.
        size: u64,
    },
}

impl Log {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on from the last checkpoint kept. The tiles at the edge are checked against it; for those within the tree
    /// see [`audit`](crate::audit).
    pub fn resume(last: &VerifiedCheckpoint, source: &impl TileSource) -> Result<Self, ResumeError> {
        let Checkpoint { size, root, .. } = *last.checkpoint();
        let edge = Edge::load(source, size)?;
        if edge.root() != root {
            return Err(ResumeError::Root { size });
        }
        let mut bundle = Vec::new();
        let (index, width) = (size / TILE_WIDTH as u64, (size % TILE_WIDTH as u64) as usize);
        if let Some(wanted) = TilePath::in_tree(TileKind::Entries, index, size).filter(|_| width > 0) {
            let (path, bytes) = read_tile(source, wanted)?;
            let entries = read_bundle(&bytes).map_err(|error| ResumeError::Bundle { path, error })?;
            let known = edge.partial().next().map(|(_, hashes)| hashes);
            let leaves: Vec<Digest> = entries.iter().take(width).map(|entry| hash::of_leaf(entry)).collect();
            if known != Some(&leaves[..]) {
                return Err(ResumeError::OtherBundle(path));
            }
            entries[..width].iter().for_each(|entry| write_entry(&mut bundle, entry));
        }
        Ok(Self { edge, bundle })
    }

    /// Entries so far.
    pub const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// What to sign.
    pub fn checkpoint(&self, origin: KeyName) -> Checkpoint {
        Checkpoint { origin, size: self.size(), root: self.edge.root() }
    }

    /// Appends a batch, all of it or nothing.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Appended, AppendError> {
        if entries.len() > MAX_BATCH {
            return Err(AppendError::Batch(entries.len()));
        }
        if self.size() > MAX_SIZE - entries.len() as u64 {
            return Err(AppendError::Full);
        }
        let encode = |(index, entry): (usize, &Entry)| {
            entry.encode().map_err(|error| AppendError::Entry { index, error })
        };
        let entries = entries.iter().enumerate().map(encode).collect::<Result<Vec<_>, _>>()?;
        let (first, mut writes) = (self.size(), Vec::new());
        for entry in &entries {
            write_entry(&mut self.bundle, entry);
            let mut full = |path, hashes: &[Digest]| writes.push(Write { path, bytes: to_bytes(hashes) });
            self.edge.push(hash::of_leaf(entry), &mut full);
            if self.size().is_multiple_of(TILE_WIDTH as u64) {
                writes.extend(self.write_bundle(self.size() / TILE_WIDTH as u64 - 1));
                self.bundle.clear();
            }
        }
        if !entries.is_empty() {
            writes.extend(self.write_bundle(self.size() / TILE_WIDTH as u64));
            let tiles = self.edge.partial();
            writes.extend(tiles.map(|(path, hashes)| Write { path, bytes: to_bytes(hashes) }));
        }
        Ok(Appended { first, writes })
    }

    fn write_bundle(&self, index: u64) -> Option<Write> {
        let path = TilePath::in_tree(TileKind::Entries, index, self.size())?;
        Some(Write { path, bytes: self.bundle.clone() })
    }
}

fn to_bytes(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}
