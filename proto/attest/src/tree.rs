//! Merkle trees over leaves: SHA-256 as RFC 6962 (section 2.1) has it, so that a contract can open them.
//!
//! `leaf' = SHA-256(0x00 || leaf)`, `node = SHA-256(0x01 || left || right)`, the left side holding the largest power of
//! two below the count. The root of no leaves is SHA-256 of nothing. A root says nothing of its count: whoever signs a
//! root signs the count beside it.

use sha2::{Digest as _, Sha256};

use crate::{Digest, Leaf};

/// Builds a root leaf by leaf: memory grows with the logarithm of the count.
#[derive(Clone, Debug, Default)]
pub struct TreeBuilder {
    /// Roots of full trees from the left, each smaller than the one before: bit k of `count` has one of 2^k leaves.
    peaks: Vec<[u8; 32]>,
    count: u32,
}

impl TreeBuilder {
    /// No leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Leaf) {
        let mut node = of_leaf(leaf);
        for _ in 0..self.count.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = of_pair(&left, &node);
            }
        }
        self.peaks.push(node);
        self.count += 1;
    }

    /// Leaves so far.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The root of the leaves so far.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        Digest::from_bytes(peaks.fold(*last, |right, left| of_pair(left, &right)))
    }
}

/// The root of `leaves`.
pub fn root(leaves: &[Leaf]) -> Digest {
    let mut tree = TreeBuilder::new();
    for &leaf in leaves {
        tree.push(leaf);
    }
    tree.root()
}

/// The root of no leaves: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    Digest::from_bytes(Sha256::digest(b"").into())
}

/// The hashes that lead from leaf `index` to the root, from below; `None` if there is no such leaf.
pub fn prove(leaves: &[Leaf], index: usize) -> Option<Vec<Digest>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut rest, mut index, mut path) = (leaves, index, Vec::new());
    while rest.len() > 1 {
        let (left, right) = rest.split_at(split(rest.len()));
        if index < left.len() {
            path.push(root(right));
            rest = left;
        } else {
            path.push(root(left));
            index -= left.len();
            rest = right;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `leaf` is number `index` of the `count` leaves under `root`.
pub fn verify(root: &Digest, count: u32, index: u32, leaf: Leaf, path: &[Digest]) -> bool {
    if index >= count || path.len() > MAX_PATH {
        return false;
    }
    // As in RFC 9162, 2.1.3.2: `last` is the number of the level's last node.
    let (mut node, mut index, mut last) = (of_leaf(leaf), index, count - 1);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if index % 2 == 1 || index == last {
            node = of_pair(sibling.as_bytes(), &node);
            while index % 2 == 0 && index != 0 {
                (index, last) = (index / 2, last / 2);
            }
        } else {
            node = of_pair(&node, sibling.as_bytes());
        }
        (index, last) = (index / 2, last / 2);
    }
    last == 0 && node == *root.as_bytes()
}

/// Longest path: trees have fewer than 2^32 leaves.
pub const MAX_PATH: usize = 32;

/// The largest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn of_leaf(leaf: Leaf) -> [u8; 32] {
    let mut hasher = Sha256::new_with_prefix([0]);
    hasher.update(leaf.as_bytes());
    hasher.finalize().into()
}

fn of_pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new_with_prefix([1]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Straight from the definition.
    fn naive(leaves: &[Leaf]) -> [u8; 32] {
        match leaves {
            [] => Sha256::digest(b"").into(),
            [leaf] => of_leaf(*leaf),
            _ => {
                let mut split = 1;
                while split * 2 < leaves.len() {
                    split *= 2;
                }
                of_pair(&naive(&leaves[..split]), &naive(&leaves[split..]))
            }
        }
    }

    fn leaves(count: usize) -> Vec<Leaf> {
        (0..count).map(|index| Leaf::from_bytes(*blake3::hash(&index.to_le_bytes()).as_bytes())).collect()
    }

    #[test]
    fn the_root_of_nothing_is_defined() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(TreeBuilder::new().root().to_string(), text);
        assert_eq!(root(&[]), empty_root());
        assert!(!verify(&empty_root(), 0, 0, leaves(1)[0], &[]));
    }

    #[test]
    fn every_leaf_of_small_trees_is_proven_at_its_place_only() {
        for count in 1..70 {
            let leaves = leaves(count);
            let root = root(&leaves);
            assert_eq!(root.as_bytes(), &naive(&leaves));
            for (index, &leaf) in leaves.iter().enumerate() {
                let path = prove(&leaves, index).unwrap();
                assert!(verify(&root, count as u32, index as u32, leaf, &path), "{index} of {count}");
                for other in (0..count).filter(|&other| other != index) {
                    assert!(!verify(&root, count as u32, other as u32, leaf, &path));
                }
                assert!(
                    !verify(&root, count as u32, index as u32, leaves[(index + 1) % count], &path)
                        || count == 1
                );
                let mut longer = path.clone();
                longer.push(Digest::ZERO);
                assert!(!verify(&root, count as u32, index as u32, leaf, &longer));
            }
            assert_eq!(prove(&leaves, count), None);
        }
    }

    #[test]
    fn memory_grows_with_the_logarithm() {
        let mut tree = TreeBuilder::new();
        for leaf in leaves(5_000) {
            tree.push(leaf);
            assert!(tree.peaks.len() <= 13);
        }
    }

    proptest! {
        #[test]
        fn the_builder_agrees_with_the_definition(count in 0usize..600) {
            let leaves = leaves(count);
            prop_assert_eq!(root(&leaves), Digest::from_bytes(naive(&leaves)));
        }

        #[test]
        fn a_changed_proof_proves_nothing(count in 1usize..300, at in any::<prop::sample::Index>(), bit in 0usize..256, part in any::<prop::sample::Index>()) {
            let leaves = leaves(count);
            let (root, index) = (root(&leaves), at.index(count));
            let mut path = prove(&leaves, index).unwrap();
            prop_assume!(!path.is_empty());
            let part = part.index(path.len());
            let mut bytes = *path[part].as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            path[part] = Digest::from_bytes(bytes);
            prop_assert!(!verify(&root, count as u32, index as u32, leaves[index], &path));
        }
    }
}
