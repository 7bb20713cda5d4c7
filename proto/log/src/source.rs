//! How tiles are read: whoever has them implements [`TileSource`]. Bytes are checked for their length only; that they
//! are right says the root.

use std::collections::BTreeMap;

use proto_attest::Digest;

use crate::tile::{TileKind, TilePath};
use crate::{MAX_SIZE, TILE_WIDTH, hash};

/// Where tiles and bundles come from: files, or what was fetched.
pub trait TileSource {
    /// The bytes under this name, if there are any. A source that fails to read says so itself and answers `None`.
    fn read(&self, path: &TilePath) -> Option<Vec<u8>>;
}

/// Why hashes could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// Neither the tile nor the full one in its place.
    #[error("{0} is missing")]
    Missing(TilePath),
    /// Not 32 bytes for each hash.
    #[error("{path} has {bytes} bytes")]
    Length {
        /// The tile.
        path: TilePath,
        /// How long it is.
        bytes: usize,
    },
    /// No tree, or no leaf of it: sizes are at most [`MAX_SIZE`].
    #[error("no tree of {size} entries has this place")]
    Range {
        /// Entries of the tree.
        size: u64,
    },
}

impl TileSource for BTreeMap<TilePath, Vec<u8>> {
    fn read(&self, path: &TilePath) -> Option<Vec<u8>> {
        self.get(path).cloned()
    }
}

/// The tiles of a tree of which one knows the size: what proofs are made of, for it and for every smaller tree.
#[derive(Debug)]
pub struct Tiles<'a, S> {
    source: &'a S,
    size: u64,
}

impl<'a, S: TileSource> Tiles<'a, S> {
    /// The tiles of a tree of `size` entries.
    pub const fn new(source: &'a S, size: u64) -> Self {
        Self { source, size }
    }

    /// Entries of the tree.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root over leaves `[start, end)`. `start` must be a multiple of the smallest power of two that is not below
    /// `end - start`, as it is for every node of this tree and of smaller ones.
    pub(crate) fn node(&self, start: u64, end: u64) -> Result<Digest, TileError> {
        let range = TileError::Range { size: self.size };
        if start >= end || end > self.size || self.size > MAX_SIZE {
            return Err(range);
        }
        let count = end - start;
        if !count.is_power_of_two() {
            let middle = start + hash::split(count);
            return Ok(hash::of_pair(&self.node(start, middle)?, &self.node(middle, end)?));
        }
        let height = count.trailing_zeros();
        let (level, within) = (height / 8, height % 8);
        let place = start >> (8 * level);
        let hashes = read_hashes(self.source, self.size, level as u8, place / TILE_WIDTH as u64)?;
        let first = (place % TILE_WIDTH as u64) as usize;
        hashes.get(first..first + (1 << within)).and_then(hash::of_row).ok_or(range)
    }
}

/// The bytes of a tile as a tree makes it, or of the full one that took its place; with the name that they have.
pub(crate) fn read_tile(source: &impl TileSource, path: TilePath) -> Result<(TilePath, Vec<u8>), TileError> {
    for name in [path, path.full()] {
        if let Some(bytes) = source.read(&name) {
            return Ok((name, bytes));
        }
    }
    Err(TileError::Missing(path))
}

/// The hashes of tile `index` of `level` in a tree of `size` leaves.
pub(crate) fn read_hashes(
    source: &impl TileSource,
    size: u64,
    level: u8,
    index: u64,
) -> Result<Vec<Digest>, TileError> {
    let wanted = TilePath::in_tree(TileKind::Hashes(level), index, size).ok_or(TileError::Range { size })?;
    let (path, bytes) = read_tile(source, wanted)?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    if hashes.len() != path.width() || !rest.is_empty() {
        return Err(TileError::Length { path, bytes: bytes.len() });
    }
    Ok(hashes[..wanted.width()].iter().map(|&hash| Digest::from_bytes(hash)).collect())
}
