//! Trees and proofs of random sizes: against the definition in RFC 6962, against the crate `ct-merkle`, and changed.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use proptest::prelude::*;
use sha2::Sha256;

use super::*;
use crate::proof::{
    ConsistencyError, InclusionError, MAX_PROOF, check_consistency, check_inclusion, prove_consistency,
    prove_inclusion,
};
use crate::{MAX_SIZE, TileKind, hash};

/// Straight from the definition.
fn naive(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => hash::of_nothing(),
        [leaf] => *leaf,
        _ => {
            let mut middle = 1;
            while middle * 2 < leaves.len() {
                middle *= 2;
            }
            hash::of_pair(&naive(&leaves[..middle]), &naive(&leaves[middle..]))
        }
    }
}

struct Tree {
    kept: Kept,
    entries: Vec<Vec<u8>>,
    leaves: Vec<Digest>,
}

impl Tree {
    fn of(size: u64) -> Self {
        let entries: Vec<Vec<u8>> = (0..size).map(|index| entry(index, 0).encode().unwrap()).collect();
        let leaves = entries.iter().map(|entry| hash::of_leaf(entry)).collect();
        Self { kept: Kept::of(size), entries, leaves }
    }

    fn root(&self, size: u64) -> Digest {
        naive(&self.leaves[..size as usize])
    }

    fn theirs(&self, size: u64) -> RootHash<Sha256> {
        RootHash::new((*self.root(size).as_bytes()).into(), size)
    }
}

fn flip(proof: &[Digest], at: usize, bit: usize) -> Vec<Digest> {
    let mut proof = proof.to_vec();
    let mut bytes = *proof[at].as_bytes();
    bytes[bit / 8] ^= 1 << (bit % 8);
    proof[at] = Digest::from_bytes(bytes);
    proof
}

fn concat(proof: &[Digest]) -> Vec<u8> {
    proof.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

#[test]
fn every_pair_of_small_trees_is_proven_and_no_other() {
    let tree = Tree::of(40);
    let roots: Vec<Digest> = (0..=40).map(|size| tree.root(size)).collect();
    for new in 0..=40u64 {
        let kept = Kept::of(new);
        let files = kept.tiles();
        let new_root = (new, &roots[new as usize]);
        for old in 0..=new {
            let proof = prove_consistency(&files, old, new).unwrap();
            check_consistency((old, &roots[old as usize]), new_root, &proof).unwrap();
            for other in (0..=40).filter(|&other| other != old) {
                let wrong = check_consistency((other, &roots[other as usize]), new_root, &proof);
                // No proof is needed for the empty tree or the same, so one that is empty fits both.
                assert!(wrong.is_err() || (proof.is_empty() && (other == 0 || other == new)));
                assert!(check_consistency((old, &roots[other as usize]), new_root, &proof).is_err());
            }
        }
        for index in 0..new {
            let proof = prove_inclusion(&files, new, index).unwrap();
            for other in 0..new {
                let leaf = tree.leaves[other as usize];
                let at_place = check_inclusion(new_root.1, new, index, leaf, &proof);
                let at_other = check_inclusion(new_root.1, new, other, tree.leaves[index as usize], &proof);
                assert_eq!((at_place.is_ok(), at_other.is_ok()), (other == index, other == index));
            }
        }
    }
}

#[test]
fn memory_trees_of_other_hands_give_the_same_proofs() {
    let tree = Tree::of(700);
    let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for (size, entry) in (1..).zip(&tree.entries) {
        theirs.push(entry.clone());
        if size % 37 != 0 && size != 700 {
            continue;
        }
        assert_eq!(theirs.root(), tree.theirs(size));
        for part in [0, size / 3, size / 2, size - 1] {
            let inclusion = prove_inclusion(&tree.kept.tiles(), size, part).unwrap();
            assert_eq!(concat(&inclusion), theirs.prove_inclusion(part as usize).as_bytes());
            let consistency = prove_consistency(&tree.kept.tiles(), size - part, size).unwrap();
            assert_eq!(concat(&consistency), theirs.prove_consistency(part as usize).as_bytes());
        }
    }
}

#[test]
fn hostile_sizes_are_refused() {
    let (root, leaf, empty) = (hash::of_nothing(), Digest::ZERO, Files::new());
    let full = vec![Digest::ZERO; MAX_PROOF];
    for size in [0, 1, 2, 255, 256, MAX_SIZE - 1, MAX_SIZE, MAX_SIZE + 1, u64::MAX - 1, u64::MAX] {
        for other in [0, 1, 2, 255, 256, MAX_SIZE - 1, MAX_SIZE, MAX_SIZE + 1, u64::MAX] {
            for proof in [&[][..], &full[..1], &full[..62], &full] {
                assert!(check_inclusion(&root, size, other, leaf, proof).is_err());
                let trivial = proof.is_empty() && size <= MAX_SIZE && (other == 0 || other == size);
                assert_eq!(check_consistency((other, &root), (size, &root), proof).is_ok(), trivial);
            }
            let files = Tiles::new(&empty, size);
            assert!(prove_inclusion(&files, size, other).is_err() || (size == 1 && other == 0));
            assert_eq!(prove_consistency(&files, other, size).is_ok(), other == 0 || other == size);
        }
    }
    let long = vec![Digest::ZERO; 100_000];
    assert_eq!(check_inclusion(&root, 1 << 40, 0, leaf, &long), Err(InclusionError::Shape));
    assert_eq!(check_consistency((1, &root), (1 << 40, &root), &long), Err(ConsistencyError::Shape));
}

#[test]
fn old_trees_are_proven_when_their_partial_tiles_are_gone() {
    let mut tree = Tree::of(1500);
    tree.kept
        .files
        .retain(|path, _| path.is_full() || path.width() == 1500 % 256 || path.kind() == TileKind::Hashes(1));
    for size in [1, 255, 256, 257, 700, 1279, 1280] {
        let proof = prove_inclusion(&tree.kept.tiles(), size, size - 1).unwrap();
        check_inclusion(&tree.root(size), size, size - 1, tree.leaves[size as usize - 1], &proof).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_trees_are_proven(new in 1u64..2001, pairs in prop::collection::vec((any::<u64>(), any::<u64>()), 4), bit in 0usize..256) {
        let tree = Tree::of(new);
        let root = tree.root(new);
        prop_assert_eq!(tree.kept.sign().checkpoint().root, root);
        for (old, index) in pairs {
            let (old, index) = (old % new + 1, index % new);
            let old_root = tree.root(old);
            let proof = prove_consistency(&tree.kept.tiles(), old, new).unwrap();
            prop_assert_eq!(check_consistency((old, &old_root), (new, &root), &proof), Ok(()));
            let theirs = ConsistencyProof::try_from_bytes(concat(&proof)).unwrap();
            prop_assert!(tree.theirs(new).verify_consistency(&tree.theirs(old), &theirs).is_ok());
            for at in 0..proof.len() {
                prop_assert!(check_consistency((old, &old_root), (new, &root), &flip(&proof, at, bit)).is_err());
            }
            prop_assert!(check_consistency((old, &old_root), (new, &root), &[&proof[..], &[root]].concat()).is_err());
            if let Some((_, shorter)) = proof.split_last() {
                prop_assert!(check_consistency((old, &old_root), (new, &root), shorter).is_err());
            }

            let leaf = tree.leaves[index as usize];
            let proof = prove_inclusion(&tree.kept.tiles(), new, index).unwrap();
            prop_assert_eq!(check_inclusion(&root, new, index, leaf, &proof), Ok(()));
            let theirs = InclusionProof::try_from_bytes(concat(&proof)).unwrap();
            prop_assert!(tree.theirs(new).verify_inclusion(&tree.entries[index as usize], index, &theirs).is_ok());
            for at in 0..proof.len() {
                prop_assert_eq!(check_inclusion(&root, new, index, leaf, &flip(&proof, at, bit)), Err(InclusionError::Root));
            }
            prop_assert!(check_inclusion(&root, new, index, flip(&[leaf], 0, bit)[0], &proof).is_err());
        }
    }

    #[test]
    fn a_tree_that_begins_otherwise_is_told_from_a_bad_proof(old in 2u64..600, more in 1u64..600, at: prop::sample::Index) {
        let (ours, mut theirs) = (Tree::of(old), Kept::of(at.index(old as usize) as u64));
        theirs.grow(old, 1);
        let prefix = theirs.sign().checkpoint().root;
        theirs.grow(old + more, 1);
        let new = theirs.sign().checkpoint().root;
        let proof = prove_consistency(&theirs.tiles(), old, old + more).unwrap();
        let found = check_consistency((old, &ours.root(old)), (old + more, &new), &proof);
        // A full old tree is no part of the proof, so nothing shows what it should have been.
        let wanted = if old.is_power_of_two() { ConsistencyError::NewRoot } else { ConsistencyError::OldRoot { prefix } };
        prop_assert_eq!(found, Err(wanted));
    }

    #[test]
    fn no_proof_panics(old: u64, new: u64, shift in 0u32..64, length in 0usize..70) {
        let proof = vec![Digest::ZERO; length];
        let (old, new) = (old >> shift, new >> shift);
        let _ = check_consistency((old, &Digest::ZERO), (new, &Digest::ZERO), &proof);
        let _ = check_inclusion(&Digest::ZERO, new, old, Digest::ZERO, &proof);
        let files = Files::new();
        let _ = prove_consistency(&Tiles::new(&files, new), old, new);
        let _ = prove_inclusion(&Tiles::new(&files, new.saturating_add(1)), new, old);
    }
}
