//! Forks: caught by an audit, shown by evidence that anybody can check, and nobody framed.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::audit::{AuditError, audit};
use crate::checkpoint::CheckpointError;
use crate::evidence::{EvidenceError, MAX_EVIDENCE_BYTES};
use crate::proof::{ConsistencyError, prove_consistency};
use crate::{ForkEvidence, SignatureKind};

/// Two logs under one key that are equal up to `common`, of `one` and `other` entries.
fn fork(common: u64, one: u64, other: u64) -> (Kept, Kept) {
    let (mut left, mut right) = (Kept::of(common), Kept::of(common));
    left.grow(one, 0);
    right.grow(other, 1);
    (left, right)
}

/// Evidence that the right log of [`fork`] does not go on the left one.
fn evidence(left: &Kept, right: &Kept) -> Result<ForkEvidence, EvidenceError> {
    ForkEvidence::from_tiles(&log_verifier(), left.sign().signed(), right.sign().signed(), &right.tiles())
}

#[test]
fn an_audit_finds_a_fork_and_shows_whose_it_is() {
    // Full old trees, whose root is no part of a proof, and others; a fork right before, and long before.
    for (common, old, new) in
        [(300, 512, 700), (300, 511, 512), (5, 6, 700), (0, 1, 1), (300, 400, 400), (255, 256, 257)]
    {
        let (left, right) = fork(common, old, new);
        let error = audit(&right.files, &right.sign(), &[Kept::of(common).sign(), left.sign()]).unwrap_err();
        let AuditError::Fork(evidence) = error else { panic!("{error}") };
        let fault = ForkEvidence::decode(&evidence.encode()).unwrap().fault();
        assert_eq!(fault.key, log_verifier());
        let mut sizes = [fault.first.size, fault.second.size];
        sizes.sort_unstable();
        assert_eq!(sizes, [old, new]);
        assert!(fault.to_string().starts_with(&log_verifier().to_string()), "{fault}");
    }
}

#[test]
fn a_witness_that_cosigned_both_is_at_fault_too() {
    let (left, right) = fork(10, 20, 20);
    let witness = VerifierKey::of_witness(witness_key().node_id());
    let cosigned = |kept: &Kept, now| {
        let mut checkpoint = kept.sign();
        let line = checkpoint.cosign(&witness, &witness_key(), now).unwrap();
        checkpoint.add_cosignature(&witness, line).unwrap();
        checkpoint
    };
    let (left, right) = (cosigned(&left, 1), cosigned(&right, 2));
    for key in [&witness, &log_verifier()] {
        let evidence = ForkEvidence::same_size(key, left.signed(), right.signed()).unwrap();
        assert_eq!(evidence.fault().key, *key);
        assert_eq!(ForkEvidence::decode(&evidence.encode()), Ok(evidence.clone()));
        // One file for each fork, in whatever order it was found, and nothing of others in it.
        let other = ForkEvidence::same_size(key, right.signed(), left.signed()).unwrap();
        assert_eq!(other.encode(), evidence.encode());
        let text = String::from_utf8_lossy(&evidence.encode()).into_owned();
        let other = if key == &witness { "\u{2014} layerlane.log" } else { "layerlane.witness" };
        assert!(!text.contains(other));
    }
}

#[test]
fn nobody_is_framed() {
    let key = log_verifier();
    let same = |one: &VerifiedCheckpoint, other: &VerifiedCheckpoint| {
        ForkEvidence::same_size(&key, one.signed(), other.signed()).unwrap_err()
    };
    let (small, large) = (Kept::of(20), Kept::of(30));
    assert_eq!(evidence(&small, &large), Err(EvidenceError::NoFork));
    assert_eq!(evidence(&Kept::of(0), &large), Err(EvidenceError::NoFork));
    assert_eq!(same(&small.sign(), &small.sign()), EvidenceError::NoFork);
    assert_eq!(same(&small.sign(), &large.sign()), EvidenceError::NoFork);
    // An honest log with its own proof, and with one made up.
    let prefix = |root, proof| {
        ForkEvidence::prefix(&key, small.sign().signed(), large.sign().signed(), root, proof).unwrap_err()
    };
    let proof = prove_consistency(&large.tiles(), 20, 30).unwrap();
    assert_eq!(prefix(small.sign().checkpoint().root, proof.clone()), EvidenceError::NoFork);
    let wrong = prefix(Digest::ZERO, proof.clone());
    assert!(matches!(wrong, EvidenceError::Proof(ConsistencyError::OldRoot { .. })), "{wrong}");
    let mut other = proof.clone();
    other[1] = Digest::ZERO;
    assert_eq!(prefix(Digest::ZERO, other), EvidenceError::Proof(ConsistencyError::NewRoot));
    assert_eq!(prefix(Digest::ZERO, vec![]), EvidenceError::Proof(ConsistencyError::Shape));
    let swapped =
        ForkEvidence::prefix(&key, large.sign().signed(), small.sign().signed(), Digest::ZERO, proof);
    assert_eq!(swapped, Err(EvidenceError::Order));
    // Others' signatures, under their own name and under that of the log.
    let (left, right) = fork(10, 20, 20);
    let forged = right.log.checkpoint(key.name().clone()).sign(&witness_key()).unwrap();
    let unsigned = EvidenceError::Checkpoint(CheckpointError::Note(crate::NoteError::Unsigned));
    assert_eq!(same(&left.sign(), &forged), unsigned);
    let stranger = VerifierKey::of_log(witness_key().node_id());
    let found = ForkEvidence::same_size(&stranger, left.sign().signed(), right.sign().signed());
    assert_eq!(found, Err(EvidenceError::OtherLog));
    let theirs = right.log.checkpoint(stranger.name().clone()).sign(&witness_key()).unwrap();
    assert_eq!(same(&left.sign(), &theirs), EvidenceError::OtherLog);
    let cosigner = VerifierKey::new(key.name().clone(), SignatureKind::Cosignature, key.key());
    let found = ForkEvidence::same_size(&cosigner, left.sign().signed(), right.sign().signed());
    assert_eq!(found, Err(unsigned));
}

#[test]
fn hostile_evidence_is_refused() {
    let (left, right) = fork(300, 511, 700);
    let good = evidence(&left, &right).unwrap().encode();
    assert_eq!(ForkEvidence::decode(&[]), Err(EvidenceError::Magic));
    assert_eq!(ForkEvidence::decode(b"LLFK\x01\x00"), Err(EvidenceError::Layout));
    assert_eq!(ForkEvidence::decode(b"LLFK\x02\x00"), Err(EvidenceError::Magic));
    let huge = vec![0; MAX_EVIDENCE_BYTES + 1];
    assert_eq!(ForkEvidence::decode(&huge), Err(EvidenceError::TooLong(huge.len())));
    let mut lengths = good[..9].to_vec();
    lengths[7..].copy_from_slice(&[255, 255]);
    assert_eq!(ForkEvidence::decode(&lengths), Err(EvidenceError::Layout));
    assert_eq!(ForkEvidence::decode(&[&good[..], &[0]].concat()), Err(EvidenceError::Layout));
    let mut count = good.clone();
    let proof = prove_consistency(&right.tiles(), 511, 700).unwrap();
    let at = good.len() - 32 * proof.len() - 1;
    count[at] = 64;
    assert_eq!(ForkEvidence::decode(&count), Err(EvidenceError::Layout));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_changed_byte_of_evidence_is_refused(prefix: bool, at: prop::sample::Index, bit in 0u8..8) {
        static FOUND: LazyLock<[ForkEvidence; 2]> = LazyLock::new(|| {
            [400, 700].map(|new| {
                let (left, right) = fork(300, 400, new);
                evidence(&left, &right).unwrap()
            })
        });
        let evidence = FOUND[usize::from(prefix)].clone();
        let good = evidence.encode();
        prop_assert_eq!(ForkEvidence::decode(&good), Ok(evidence));
        let mut changed = good.clone();
        changed[at.index(good.len())] ^= 1 << bit;
        prop_assert!(ForkEvidence::decode(&changed).is_err());
        prop_assert!(ForkEvidence::decode(&good[..at.index(good.len())]).is_err());
    }

    #[test]
    fn every_fork_is_found_and_no_other(common in 0u64..300, old in 1u64..300, more in 0u64..300) {
        let (old, new) = (common + old, common + old + more);
        let (left, right) = fork(common, old, new);
        let found = audit(&right.files, &right.sign(), &[left.sign()]);
        prop_assert!(matches!(found, Err(AuditError::Fork(_))), "{:?}", found);
        let mut honest = left.clone();
        honest.grow(new, 0);
        prop_assert!(audit(&honest.files, &honest.sign(), &[left.sign()]).is_ok());
    }
}
