//! The leaf of a row: a hash that binds its bytes to session, generation and position, whatever frame carried it.
//!
//! A hop makes one for each row that it received and one for each row that it sent. The two ends of a hop hash the same
//! bytes under the same names, so their leaves are equal; which boundary they lie on is not in them.
//!
//! * Stage 0 receives tokens: its row is the id, 4 bytes little-endian.
//! * All others receive and send hidden states: `hidden` elements in the wire's type, little-endian.
//! * The tail sends its last hidden row to nobody; it makes the leaf all the same, so that what its layers did can be
//!   judged. What it chose from that row is committed to apart ([`sample`](crate::sample)).

use proto::{Generation, NodeId, Position, SessionId};

/// A leaf of a tree: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leaf([u8; 32]);

impl Leaf {
    /// Takes the 32 bytes as they are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Leaf({})", hex::encode(&self.0[..4]))
    }
}

/// Makes the leaves of one session's generation. BLAKE3: rows are bulk bytes, and no contract opens them.
#[derive(Clone)]
pub struct LeafHasher(blake3::Hasher);

impl LeafHasher {
    /// For the rows of a session. A session is one router's: its id is in each leaf.
    pub fn of_rows(router: NodeId, session: SessionId, generation: Generation) -> Self {
        Self::new("layerlane attest row 1", router, session, generation)
    }

    pub(crate) fn new(context: &str, router: NodeId, session: SessionId, generation: Generation) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(router.as_bytes());
        hasher.update(&session.get().to_le_bytes());
        hasher.update(&generation.get().to_le_bytes());
        Self(hasher)
    }

    /// The leaf of the row at `position` with these bytes.
    pub fn leaf(&self, position: Position, row: &[u8]) -> Leaf {
        let mut hasher = self.0.clone();
        hasher.update(&position.get().to_le_bytes());
        hasher.update(row);
        Leaf(*hasher.finalize().as_bytes())
    }

    /// The leaf of what stage 0 receives: a token.
    pub fn token(&self, position: Position, token: u32) -> Leaf {
        self.leaf(position, &token.to_le_bytes())
    }
}

impl std::fmt::Debug for LeafHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeafHasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_of_its_row_and_place_only() {
        let hasher = |router, session, generation| {
            LeafHasher::of_rows(
                NodeId::from_bytes([router; 32]),
                SessionId::new(session),
                Generation::new(generation),
            )
        };
        let leaf = hasher(1, 2, 3).leaf(Position::new(4), b"row");
        assert_eq!(hasher(1, 2, 3).leaf(Position::new(4), b"row"), leaf);
        for other in [hasher(2, 2, 3), hasher(1, 3, 3), hasher(1, 2, 4)] {
            assert_ne!(other.leaf(Position::new(4), b"row"), leaf);
        }
        assert_ne!(hasher(1, 2, 3).leaf(Position::new(5), b"row"), leaf);
        assert_ne!(hasher(1, 2, 3).leaf(Position::new(4), b"rov"), leaf);
        assert_eq!(
            hasher(1, 2, 3).token(Position::new(4), 0x0102),
            hasher(1, 2, 3).leaf(Position::new(4), &[2, 1, 0, 0])
        );
        // A change here breaks every receipt ever made.
        assert_eq!(hex::encode(&leaf.as_bytes()[..8]), GOLDEN);
    }

    const GOLDEN: &str = "0f6586760e2867dc";
}
