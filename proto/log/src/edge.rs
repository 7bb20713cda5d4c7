//! The right edge of a tree: the tiles that are not full yet. All that has to be kept to append and to know the root.
//!
//! ```text
//! level 2                 [ h ]                 each hash of a level is the root of a full tile below
//! level 1        [h h h h h h][ h h ]
//! level 0   ...[256 hashes][256 hashes][ h h h ]     <- the bracket at the right end of each level is the edge
//! ```

use proto_attest::Digest;

use crate::source::{TileError, TileSource, read_hashes};
use crate::tile::{TileKind, TilePath};
use crate::{TILE_WIDTH, hash};

/// The edge of a tree; at most 255 hashes for each of at most 8 levels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edge {
    size: u64,
    levels: Vec<Vec<Digest>>,
}

impl Edge {
    /// The edge of a tree of `size` leaves, out of its tiles. Nothing says that they are right but the root.
    pub(crate) fn load(source: &impl TileSource, size: u64) -> Result<Self, TileError> {
        let mut levels = Vec::new();
        for level in 0..=TilePath::MAX_LEVEL {
            let hashes = size >> (8 * u32::from(level));
            if hashes == 0 {
                break;
            }
            let partial = !hashes.is_multiple_of(TILE_WIDTH as u64);
            let index = hashes / TILE_WIDTH as u64;
            levels.push(if partial { read_hashes(source, size, level, index)? } else { Vec::new() });
        }
        Ok(Self { size, levels })
    }

    /// Appends a leaf by its hash. `full` is given each tile of hashes that it fills, from below.
    pub(crate) fn push(&mut self, leaf: Digest, mut full: impl FnMut(TilePath, &[Digest])) {
        self.size += 1;
        let mut hash = leaf;
        for level in 0..=TilePath::MAX_LEVEL {
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::new());
            }
            let hashes = &mut self.levels[usize::from(level)];
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH {
                return;
            }
            // No tree of at most 2^63 - 1 leaves fills a tile of the highest level.
            let tiles = self.size.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
            let index = tiles.saturating_sub(1);
            if let (Some(path), Some(root)) =
                (TilePath::new(TileKind::Hashes(level), index, TILE_WIDTH), hash::of_row(hashes))
            {
                full(path, hashes);
                hash = root;
            }
            hashes.clear();
        }
    }

    /// Leaves so far.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the leaves so far.
    pub(crate) fn root(&self) -> Digest {
        let mut right: Option<Digest> = None;
        for hashes in &self.levels {
            let row: Vec<Digest> = hashes.iter().copied().chain(right).collect();
            right = hash::of_row(&row);
        }
        right.unwrap_or_else(hash::of_nothing)
    }

    /// The tiles that are not full, from below.
    pub(crate) fn partial(&self) -> impl Iterator<Item = (TilePath, &[Digest])> {
        (0..).zip(&self.levels).filter_map(|(level, hashes)| {
            let path = TilePath::in_tree(TileKind::Hashes(level), self.index_at(level), self.size)?;
            (!hashes.is_empty()).then_some((path, hashes.as_slice()))
        })
    }

    const fn index_at(&self, level: u8) -> u64 {
        (self.size >> (8 * level as u32)) / TILE_WIDTH as u64
    }
}
