//! Evidence as a file: it is small and quick to check, every byte of it counts, and any other bytes do no harm.

use crate::swarm::{Course, ROUTER, key, session};
use proptest::prelude::*;
use proto_attest::bundle::{self, BundleError, SealError};
use proto_attest::check::check;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn course(answer: u32, losses: usize) -> Course {
    Course {
        seed: 5,
        hops: 3,
        prompt: 100,
        answer,
        losses,
        reused: 0,
        receipts_are_lost: false,
        stops: false,
    }
}

#[test]
fn evidence_is_read_as_it_was_sealed() {
    let session = session(course(80, 2));
    let bytes = bundle::seal(&session.evidence, &key(ROUTER)).unwrap();
    let read = bundle::read(&bytes).unwrap();
    assert_eq!(bundle::seal(&read, &key(ROUTER)).unwrap(), bytes);
    assert_eq!(read.tokens, session.evidence.tokens);
    let report = bundle::verify(&bytes).unwrap();
    assert_eq!(report.receipts_verified, check(&session.evidence).receipts_verified);
    assert!(report.holds() && report.receipts_verified > 0);
    assert!(report.tokens_judged > 0);
}

#[test]
fn ten_thousand_changed_bytes_are_all_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let session = session(course(40, 1));
    let good = bundle::seal(&session.evidence, &key(ROUTER)).unwrap();
    assert!(bundle::verify(&good).unwrap().holds());
    for _ in 0..12_000 {
        let mut changed = good.clone();
        let at = rng.random_range(0..changed.len());
        changed[at] ^= rng.random_range(1..=255u8);
        assert!(bundle::verify(&changed).is_err(), "byte {at}");
    }
    for at in 0..good.len() {
        // Ends of lists and the signature are where a lax reader would be lenient.
        let mut changed = good.clone();
        changed[at] = changed[at].wrapping_add(1);
        assert!(bundle::verify(&changed).is_err(), "byte {at}");
        if at % 7 == 0 {
            assert!(bundle::verify(&good[..at]).is_err());
        }
    }
    assert!(bundle::verify(&[&good[..], &[0]].concat()).is_err());
}

#[test]
fn only_the_router_of_the_opens_can_seal() {
    let mut session = session(course(10, 0));
    assert_eq!(bundle::seal(&session.evidence, &key(1)), Err(SealError::NotTheRouter));
    session.evidence.generations[0].receipts[0].receipt.open = proto_attest::Digest::ZERO;
    assert_eq!(bundle::seal(&session.evidence, &key(ROUTER)), Err(SealError::OtherOpen(0)));
    session.evidence.generations.clear();
    assert_eq!(bundle::seal(&session.evidence, &key(ROUTER)), Err(SealError::Empty));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn five_hundred_tokens_over_three_hops_are_checked_in_a_moment() {
    let mut session = session(course(500, 0));
    for generation in &mut session.evidence.generations {
        generation.samples.truncate(32);
    }
    let bytes = bundle::seal(&session.evidence, &key(ROUTER)).unwrap();
    let before = std::time::Instant::now();
    let report = bundle::verify(&bytes).unwrap();
    let took = before.elapsed();
    assert!(report.holds());
    assert_eq!((report.tokens_delivered, report.tokens_signed), (500, 500));
    println!("{} bytes, {} receipts, {took:?}", bytes.len(), report.receipts_verified);
    // The target is 200 ms on an idle machine; tests run beside others.
    assert!(took.as_millis() < 600, "{took:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(bundle::read(&bytes).is_err());
    }

    /// Whoever holds a key can sign any bytes: what the signature covers is still checked for its form.
    #[test]
    fn signed_nonsense_is_read_without_harm(at in any::<prop::sample::Index>(), value: u8, cut in any::<prop::sample::Index>()) {
        let session = session(course(12, 1));
        let good = bundle::seal(&session.evidence, &key(ROUTER)).unwrap();
        let mut body = good[..good.len() - 65].to_vec();
        let index = at.index(body.len());
        body[index] = value;
        for body in [&body[..], &body[..cut.index(body.len())]] {
            let sealed = bundle::sign_body(body, &key(ROUTER));
            match bundle::read(&sealed) {
                Ok(evidence) => prop_assert_eq!(bundle::seal(&evidence, &key(ROUTER)), Ok(sealed)),
                Err(error) => prop_assert!(!matches!(error, BundleError::Form(_)), "{error}"),
            }
        }
    }
}
