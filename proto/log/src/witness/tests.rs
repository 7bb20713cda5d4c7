//! A witness against logs that grow, repeat themselves, go back and fork.

use super::*;
use crate::proof::prove_consistency;
use crate::tests::{Kept, log_key, log_verifier, witness_key};
use crate::{SignatureLine, hash};
use proptest::prelude::*;

const NOW: u64 = 1_790_000_000;

fn witness() -> Witness {
    let mut witness = Witness::new(witness_key());
    witness.watch(log_verifier()).unwrap();
    witness
}

/// The request that a log makes whose last cosigned tree has `old` entries.
fn request(kept: &Kept, old: u64) -> Vec<u8> {
    let proof = prove_consistency(&kept.tiles(), old, kept.log.size()).unwrap();
    AddCheckpoint::new(old, proof, &kept.sign()).encode()
}

fn cosigned(witness: &mut Witness, kept: &Kept, old: u64) -> SignatureLine {
    match witness.add_checkpoint(&request(kept, old), NOW) {
        Decision::Cosigned { line, record } => {
            assert_eq!(record, kept.sign().to_bytes());
            line
        }
        other => panic!("{other:?}"),
    }
}

fn refused(witness: &mut Witness, request: &[u8]) -> WitnessRefusal {
    match witness.add_checkpoint(request, NOW) {
        Decision::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_grows_is_cosigned() {
    let (mut witness, mut kept, mut old) = (witness(), Kept::default(), 0);
    for size in [0, 1, 1, 7, 256, 256, 300, 513, 1000] {
        kept.grow(size, 0);
        let line = cosigned(&mut witness, &kept, old);
        let mut checkpoint = kept.sign();
        assert_eq!(checkpoint.add_cosignature(witness.key(), line), Ok(NOW));
        assert_eq!(checkpoint.cosigned_by(std::slice::from_ref(witness.key())).len(), 1);
        assert_eq!(witness.latest(log_verifier().name()), Some(size));
        old = size;
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_status_of_the_specification() {
    let (mut witness, kept) = (witness(), Kept::of(300));
    let status = |witness: &mut Witness, request: &[u8]| refused(witness, request).status();
    assert_eq!(status(&mut witness, b"hello"), 400);
    // A proof from a tree that the witness never saw.
    assert_eq!(refused(&mut witness, &request(&kept, 200)), WitnessRefusal::Conflict { latest: 0 });
    cosigned(&mut witness, &Kept::of(200), 0);
    assert_eq!(refused(&mut witness, &request(&kept, 0)), WitnessRefusal::Conflict { latest: 200 });
    assert_eq!(status(&mut witness, &request(&kept, 199)), 409);
    // Back to a smaller tree: no fork by itself, and not cosigned.
    let smaller = AddCheckpoint::new(200, vec![], &Kept::of(100).sign()).encode();
    assert_eq!(refused(&mut witness, &smaller), WitnessRefusal::Sizes);
    assert_eq!(status(&mut witness, &request(&Kept::of(100), 50)), 409);
    let bare = AddCheckpoint::new(200, vec![], &kept.sign()).encode();
    assert_eq!(status(&mut witness, &bare), 422);
    let proof = prove_consistency(&kept.tiles(), 200, 300).unwrap();
    let made_up = AddCheckpoint::new(200, vec![hash::of_nothing(); proof.len()], &kept.sign()).encode();
    assert_eq!(refused(&mut witness, &made_up), WitnessRefusal::Inconsistent(ConsistencyError::NewRoot));
    let other = kept.log.checkpoint(KeyName::of_log(witness_key().node_id())).sign(&witness_key()).unwrap();
    assert_eq!(status(&mut witness, &AddCheckpoint::new(200, proof.clone(), &other).encode()), 404);
    let forged = kept.log.checkpoint(log_verifier().name().clone()).sign(&witness_key()).unwrap();
    assert_eq!(status(&mut witness, &AddCheckpoint::new(200, proof, &forged).encode()), 403);
    let late = witness.add_checkpoint(&request(&kept, 200), 1 << 63);
    assert_eq!(late, Decision::Refused(WitnessRefusal::Time));
    // After all that it is still cosigned.
    cosigned(&mut witness, &kept, 200);
}

#[test]
fn two_roots_of_one_size_are_a_fork_for_ever() {
    let mut witness = witness();
    let (left, mut right) = (Kept::of(20), Kept::of(10));
    right.grow(20, 1);
    cosigned(&mut witness, &left, 0);
    // Whatever the proof claims to start from.
    let Decision::Forked(evidence) = witness.add_checkpoint(&request(&right, 7), NOW) else { panic!() };
    assert_eq!(evidence.fault().key, log_verifier());
    // The honest branch is not cosigned any more either.
    let again = witness.add_checkpoint(&request(&Kept::of(30), 20), NOW);
    assert_eq!(again, Decision::Forked(evidence.clone()));
    assert_eq!(witness.latest(log_verifier().name()), None);
    // Nor by a witness that was told, or started again.
    let mut other = Witness::new(witness_key());
    assert_eq!(other.restore_fork((*evidence).clone()), Err(WatchError::UnknownLog));
    other.watch(log_verifier()).unwrap();
    other.restore_fork((*evidence).clone()).unwrap();
    other.restore(&left.sign().to_bytes()).unwrap();
    assert_eq!(other.add_checkpoint(&request(&left, 0), NOW), Decision::Forked(evidence));
}

#[test]
fn a_larger_tree_with_another_beginning_is_a_fork() {
    let mut witness = witness();
    let (left, mut right) = (Kept::of(20), Kept::of(10));
    cosigned(&mut witness, &left, 0);
    right.grow(30, 1);
    let Decision::Forked(evidence) = witness.add_checkpoint(&request(&right, 20), NOW) else { panic!() };
    let fault = ForkEvidence::decode(&evidence.encode()).unwrap().fault();
    assert_eq!((fault.key, fault.first.size, fault.second.size), (log_verifier(), 20, 30));
    // The old root of a full tree is in no proof: then there is no evidence, and no cosignature.
    let mut witness = Witness::new(witness_key());
    witness.watch(log_verifier()).unwrap();
    cosigned(&mut witness, &Kept::of(16), 0);
    let refusal = refused(&mut witness, &request(&right, 16));
    assert_eq!(refusal, WitnessRefusal::Inconsistent(ConsistencyError::NewRoot));
    // The log's tiles make it.
    let (before, after) = (Kept::of(16).sign(), right.sign());
    let evidence =
        ForkEvidence::from_tiles(&log_verifier(), before.signed(), after.signed(), &right.tiles()).unwrap();
    witness.restore_fork(evidence.clone()).unwrap();
    assert_eq!(witness.add_checkpoint(&request(&right, 16), NOW), Decision::Forked(Box::new(evidence)));
}

#[test]
fn a_witness_goes_on_from_its_records() {
    let mut before = witness();
    cosigned(&mut before, &Kept::of(20), 0);
    let mut after = witness();
    after.restore(&Kept::of(20).sign().to_bytes()).unwrap();
    assert_eq!(after.latest(log_verifier().name()), Some(20));
    cosigned(&mut after, &Kept::of(30), 20);
    after.restore(&Kept::of(20).sign().to_bytes()).unwrap();
    assert_eq!(after.latest(log_verifier().name()), Some(30));
    let other = Kept::of(3).log.checkpoint(KeyName::of_log(witness_key().node_id())).sign(&witness_key());
    assert_eq!(after.restore(&other.unwrap().to_bytes()), Err(WatchError::UnknownLog));
    let forged = Kept::of(3).log.checkpoint(log_verifier().name().clone()).sign(&witness_key()).unwrap();
    assert!(matches!(after.restore(&forged.to_bytes()), Err(WatchError::Record(_))));
}

#[test]
fn only_so_many_logs_are_watched() {
    let mut witness = Witness::new(witness_key());
    let log = |number: usize, key: NodeKey| {
        VerifierKey::new(format!("log/{number}").parse().unwrap(), SignatureKind::Ed25519, key.node_id())
    };
    for number in 0..MAX_LOGS {
        witness.watch(log(number, log_key())).unwrap();
    }
    assert_eq!(witness.watch(log(MAX_LOGS, log_key())), Err(WatchError::TooMany));
    assert_eq!(witness.watch(log(0, log_key())), Ok(()));
    assert_eq!(witness.watch(log(0, witness_key())), Err(WatchError::OtherKey));
    assert_eq!(witness.watch(VerifierKey::of_witness(log_key().node_id())), Err(WatchError::NotALog));
    assert!(!format!("{witness:?}").contains(&hex::encode([8; 32])));
}

#[test]
fn hostile_requests_are_refused() {
    let kept = Kept::of(30);
    let good = String::from_utf8(request(&kept, 20)).unwrap();
    assert_eq!(AddCheckpoint::parse(good.as_bytes()).unwrap().encode(), good.as_bytes());
    let parse = |text: &str| AddCheckpoint::parse(text.as_bytes()).unwrap_err();
    for old in
        ["old", "old ", "old 020", "old +20", "old -1", "OLD 20", "old 20 ", "old 99999999999999999999", ""]
    {
        assert_eq!(parse(&good.replacen("old 20", old, 1)), RequestError::Old, "{old}");
    }
    let hash = good.lines().nth(1).unwrap().to_owned();
    assert_eq!(parse(&good.replacen(&hash, "AAAA", 1)), RequestError::Proof(0));
    assert_eq!(parse(&good.replacen(&hash, &format!("{hash} "), 1)), RequestError::Proof(0));
    assert_eq!(parse(&good.replacen(&hash, &[hash.as_str(); 70].join("\n"), 1)), RequestError::Proof(63));
    assert_eq!(parse("old 0\n"), RequestError::Form);
    assert!(matches!(parse("old 0\n\n"), RequestError::Checkpoint(_)));
    assert!(matches!(parse(&"x".repeat(MAX_REQUEST_BYTES + 1)), RequestError::TooLong(_)));
    assert_eq!(AddCheckpoint::parse(&[0xff]), Err(RequestError::Form));
}

#[test]
fn the_request_of_the_specification_is_read() {
    let text = "old 20852014\n\
        PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\
        jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n\
        5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n\
        /6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\n\
        example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";
    let request = AddCheckpoint::parse(text.as_bytes()).unwrap();
    assert_eq!((request.old_size, request.proof.len()), (20_852_014, 4));
    assert_eq!(request.checkpoint.claimed().size, 20_852_163);
    assert_eq!(request.encode(), text.as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_changed_request_is_cosigned_as_another_tree(at: prop::sample::Index, bit in 0u8..8) {
        let mut witness = witness();
        cosigned(&mut witness, &Kept::of(20), 0);
        let mut changed = request(&Kept::of(70), 20);
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        prop_assert!(matches!(witness.add_checkpoint(&changed, NOW), Decision::Refused(_)));
        prop_assert_eq!(witness.latest(log_verifier().name()), Some(20));
    }

    #[test]
    fn a_witness_never_cosigns_both_branches(common in 0u64..40, one in 1u64..40, other in 1u64..40) {
        let mut witness = witness();
        let (mut left, mut right) = (Kept::of(common), Kept::of(common));
        left.grow(common + one, 0);
        right.grow(common + other, 1);
        cosigned(&mut witness, &left, 0);
        let old = (common + one).min(common + other);
        for old in [0, common, old] {
            let decision = witness.add_checkpoint(&request(&right, old), NOW);
            let fits = matches!(decision, Decision::Cosigned { .. });
            prop_assert!(!fits, "{:?}", decision);
        }
    }
}
