//! Hashes of the tree: SHA-256 as RFC 6962 (section 2.1) has it. Knows nothing of tiles.

use proto_attest::Digest;
use sha2::{Digest as _, Sha256};

/// The hash of a leaf: `SHA-256(0x00 || entry)`.
pub fn of_leaf(entry: &[u8]) -> Digest {
    let mut hasher = Sha256::new_with_prefix([0]);
    hasher.update(entry);
    Digest::from_bytes(hasher.finalize().into())
}

/// The hash of a node: `SHA-256(0x01 || left || right)`.
pub fn of_pair(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = Sha256::new_with_prefix([1]);
    hasher.update(left.as_bytes());
    hasher.update(right.as_bytes());
    Digest::from_bytes(hasher.finalize().into())
}

/// The root of no leaves: SHA-256 of nothing.
pub fn of_nothing() -> Digest {
    Digest::from_bytes(Sha256::digest(b"").into())
}

/// The root over `hashes` in the place of leaves; `None` over none. All but the last must stand for full trees of one
/// size: then the shape is RFC 6962's for the leaves below them too.
pub fn of_row(hashes: &[Digest]) -> Option<Digest> {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        // Whoever has no neighbour goes up as it is.
        row =
            row.chunks(2).map(|pair| pair.get(1).map_or(pair[0], |right| of_pair(&pair[0], right))).collect();
    }
    row.first().copied()
}

/// The largest power of two below `count`, which must be at least 2: where RFC 6962 splits that many leaves.
pub(crate) const fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}
