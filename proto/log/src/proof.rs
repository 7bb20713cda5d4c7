//! Proofs out of tiles, and their checks: RFC 6962, sections 2.1.1 and 2.1.2; checks as RFC 9162, 2.1.3.2 and 2.1.4.2.
//!
//! A proof is a list of hashes from below. Whether it fits follows from sizes and roots alone, which must come from
//! checkpoints that were verified.

use proto_attest::Digest;

use crate::source::{TileError, TileSource, Tiles};
use crate::{MAX_SIZE, hash};

/// Longest proof of either kind, as C2SP `tlog-witness` has it: enough for any two trees of at most 2^62 leaves.
pub const MAX_PROOF: usize = 63;

/// Why a proof does not show that an entry is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InclusionError {
    /// No such entry in a tree of this size, or another number of hashes than its place needs.
    #[error("the proof has not the shape that its place needs")]
    Shape,
    /// It leads to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// Why a proof does not show that a tree begins with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConsistencyError {
    /// Sizes out of order, or another number of hashes than they need.
    #[error("the proof has not the shape that the sizes need")]
    Shape,
    /// It does not lead to the new root. Anybody can make up such a proof: it says nothing of the log.
    #[error("the proof leads to another root")]
    NewRoot,
    /// It leads to the new root, so it is of the new tree; and that one begins with another tree than the old one. With
    /// both roots signed this is a fork.
    #[error("the new tree begins with root {prefix}, which is not the old one")]
    OldRoot {
        /// Root of as many leaves of the new tree as the old one has.
        prefix: Digest,
    },
}

/// The hashes that lead from entry `index` to the root of the first `size` entries.
pub fn prove_inclusion(
    tiles: &Tiles<'_, impl TileSource>,
    size: u64,
    index: u64,
) -> Result<Vec<Digest>, TileError> {
    if index >= size || size > tiles.size() {
        return Err(TileError::Range { size });
    }
    let (mut start, mut end, mut path) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + hash::split(end - start);
        if index < middle {
            path.push(tiles.node(middle, end)?);
            end = middle;
        } else {
            path.push(tiles.node(start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The hashes that show that the first `new` entries begin with the first `old`. Empty if `old` is 0 or `new`.
pub fn prove_consistency(
    tiles: &Tiles<'_, impl TileSource>,
    old: u64,
    new: u64,
) -> Result<Vec<Digest>, TileError> {
    if old > new || new > tiles.size() {
        return Err(TileError::Range { size: new });
    }
    let (mut start, mut end, mut path) = (0, new, Vec::new());
    while old != 0 && old != end {
        let middle = start + hash::split(end - start);
        if old <= middle {
            path.push(tiles.node(middle, end)?);
            end = middle;
        } else {
            path.push(tiles.node(start, middle)?);
            start = middle;
        }
    }
    // From the left end on, what both have in common is the old root itself, which the checker knows.
    if start != 0 {
        path.push(tiles.node(start, end)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether the entry with this leaf hash ([`hash::of_leaf`]) is number `index` of the `size` entries under `root`.
pub fn check_inclusion(
    root: &Digest,
    size: u64,
    index: u64,
    leaf: Digest,
    path: &[Digest],
) -> Result<(), InclusionError> {
    if index >= size || size > MAX_SIZE || path.len() > MAX_PROOF {
        return Err(InclusionError::Shape);
    }
    // `last` is the number of the level's last node.
    let (mut node, mut index, mut last) = (leaf, index, size - 1);
    for sibling in path {
        if last == 0 {
            return Err(InclusionError::Shape);
        }
        if index % 2 == 1 || index == last {
            node = hash::of_pair(sibling, &node);
            // Levels at which it had no neighbour.
            let lone = index.trailing_zeros();
            (index, last) = (index >> lone, last >> lone);
        } else {
            node = hash::of_pair(&node, sibling);
        }
        (index, last) = (index / 2, last / 2);
    }
    if last != 0 {
        return Err(InclusionError::Shape);
    }
    if node == *root { Ok(()) } else { Err(InclusionError::Root) }
}

/// Whether the tree of `new_size` entries under `new_root` begins with the one of `old_size` under `old_root`.
pub fn check_consistency(
    (old_size, old_root): (u64, &Digest),
    (new_size, new_root): (u64, &Digest),
    proof: &[Digest],
) -> Result<(), ConsistencyError> {
    if old_size > new_size || new_size > MAX_SIZE || proof.len() > MAX_PROOF {
        return Err(ConsistencyError::Shape);
    }
    if old_size == 0 || old_size == new_size {
        if !proof.is_empty() {
            return Err(ConsistencyError::Shape);
        }
        let prefix = if old_size == 0 { hash::of_nothing() } else { *new_root };
        return if prefix == *old_root { Ok(()) } else { Err(ConsistencyError::OldRoot { prefix }) };
    }
    // A full old tree is a node of the new one, so the proof leaves it out.
    let (common, rest) = if old_size.is_power_of_two() {
        (old_root, proof)
    } else {
        proof.split_first().ok_or(ConsistencyError::Shape)?
    };
    let full = (old_size - 1).trailing_ones();
    let (mut last_old, mut last_new) = ((old_size - 1) >> full, (new_size - 1) >> full);
    let (mut old, mut new) = (*common, *common);
    for sibling in rest {
        if last_new == 0 {
            return Err(ConsistencyError::Shape);
        }
        if last_old % 2 == 1 || last_old == last_new {
            old = hash::of_pair(sibling, &old);
            new = hash::of_pair(sibling, &new);
            let lone = last_old.trailing_zeros();
            (last_old, last_new) = (last_old >> lone, last_new >> lone);
        } else {
            new = hash::of_pair(&new, sibling);
        }
        (last_old, last_new) = (last_old / 2, last_new / 2);
    }
    if last_new != 0 {
        return Err(ConsistencyError::Shape);
    }
    if new != *new_root {
        return Err(ConsistencyError::NewRoot);
    }
    if old == *old_root { Ok(()) } else { Err(ConsistencyError::OldRoot { prefix: old }) }
}
