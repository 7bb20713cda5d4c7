//! Attacks on bytes: each is caught, and the key that did it is named.

use crate::swarm::{Course, ROUTER, Session, binding, key, key_of, session};
use proto_attest::bundle;
use proto_attest::check::{Blame, Evidence, Finding, Report, Severity, What, check};
use proto_attest::keys::{BindingError, SignedBinding};
use proto_attest::open::ChainError;
use proto_attest::receipt::{Leaves, ReceiptError, SignedReceipt};
use proto_attest::{Address, Amount, Digest, tree};

/// A session of two generations whose last one is long enough for full receipts of all hops.
fn honest(seed: u64) -> Session {
    let course = |seed| Course {
        seed,
        hops: 3,
        prompt: 300,
        answer: 90,
        losses: 1,
        reused: 0,
        receipts_are_lost: false,
        stops: false,
    };
    let mut sessions = (100 * seed..).map(|seed| session(course(seed)));
    let long = |session: &Session| session.opens[1].open().forced_rows < 40;
    sessions.find(long).unwrap()
}

fn router() -> Address {
    key(ROUTER).address()
}

fn signer(evidence: &Evidence, generation: usize, hop: u16) -> Address {
    evidence.generations[generation].open.open.route[usize::from(hop)].receipt_key
}

/// The last generation, which is always complete, and the number of a full decode receipt of a hop in it.
fn place(evidence: &Evidence, hop: u16) -> (usize, usize) {
    let last = evidence.generations.len() - 1;
    let generation = &evidence.generations[last];
    let cuts = generation.open.open.cuts();
    let full = |receipt: &SignedReceipt| {
        let rows = receipt.receipt.rows;
        receipt.receipt.hop == hop
            && cuts.window(rows.end - 1).end == rows.end
            && rows.end > generation.open.open.known()
    };
    (last, generation.receipts.iter().position(full).unwrap())
}

/// Changes a receipt and lets its hop sign it again.
fn resign(
    session: &mut Session,
    (generation, index): (usize, usize),
    spoil: impl FnOnce(&mut SignedReceipt),
) {
    let open = session.opens[generation].open();
    let signed = &mut session.evidence.generations[generation].receipts[index];
    spoil(signed);
    let key = key_of(open.route[usize::from(signed.receipt.hop)].receipt_key);
    let digest = signed.receipt.digest(open);
    signed.signature = key.sign(&digest);
    signed.sampler = signed.sampler.take().map(|sampler| sampler.sampler.sign(&digest, &key));
}

/// That an attack was found, with exactly the keys of `blamed` under suspicion.
fn caught(evidence: &Evidence, what: impl Fn(&What) -> bool, blamed: Blame) -> Report {
    let report = check(evidence);
    let found: Vec<&Finding> = report.faults().filter(|finding| what(&finding.what)).collect();
    assert!(!found.is_empty(), "not found among {:#?}", report.findings);
    let fault = |finding: &&Finding| finding.severity == Severity::Fault(blamed);
    assert!(found.iter().all(fault), "{found:#?} instead of {blamed:?}");
    // And whatever follows from it accuses nobody who is out of it.
    let suspects = |blame: Blame| match blame {
        Blame::Key(key) => vec![key],
        Blame::OneOf(a, b) => vec![a, b],
    };
    for finding in report.faults() {
        let Severity::Fault(blame) = finding.severity else { continue };
        assert!(suspects(blame).iter().any(|key| suspects(blamed).contains(key)), "{finding}");
    }
    report
}

#[test]
fn a_tampered_receipt_is_the_fault_of_who_shows_it() {
    for seed in 0..4 {
        let mut session = honest(seed);
        let (generation, index) = place(&session.evidence, 1);
        session.evidence.generations[generation].receipts[index].receipt.out_root =
            Digest::from_bytes([1; 32]);
        let not_by_hop = |what: &What| matches!(what, What::ReceiptInvalid(ReceiptError::NotByHop(1)));
        caught(&session.evidence, not_by_hop, Blame::Key(router()));
    }
}

#[test]
fn a_false_root_is_a_contradiction_of_two_neighbours() {
    for hop in 0..2 {
        let mut session = honest(9);
        let at = place(&session.evidence, hop);
        resign(&mut session, at, |signed| {
            signed.receipt.out_root = Digest::from_bytes([1; 32]);
            signed.leaves = Leaves::default();
        });
        let (a, b) = (signer(&session.evidence, at.0, hop), signer(&session.evidence, at.0, hop + 1));
        caught(&session.evidence, |what| *what == What::Boundary, Blame::OneOf(a, b));
    }
    let mut session = honest(9);
    let at = place(&session.evidence, 0);
    resign(&mut session, at, |signed| signed.receipt.in_root = Digest::from_bytes([1; 32]));
    let (tail, first) = (signer(&session.evidence, at.0, 2), signer(&session.evidence, at.0, 0));
    caught(&session.evidence, |what| *what == What::Input, Blame::OneOf(tail, first));
}

#[test]
fn equivocation_names_the_hop() {
    for hop in 0..3 {
        let mut session = honest(3);
        let (generation, index) = place(&session.evidence, hop);
        let twin = session.evidence.generations[generation].receipts[index].clone();
        session.evidence.generations[generation].receipts.push(twin);
        let last = session.evidence.generations[generation].receipts.len() - 1;
        resign(&mut session, (generation, last), |signed| signed.receipt.epoch += 1);
        let blamed = Blame::Key(signer(&session.evidence, generation, hop));
        caught(&session.evidence, |what| *what == What::Equivocation, blamed);
        // The evidence is portable: it holds in a file too.
        let bytes = bundle::seal(&session.evidence, &key(ROUTER)).unwrap();
        let report = bundle::verify(&bytes).unwrap();
        assert!(report.faults().any(|finding| finding.what == What::Equivocation));
    }
}

#[test]
fn two_lists_of_tokens_for_one_receipt_are_equivocation() {
    let mut session = honest(3);
    let (generation, index) = place(&session.evidence, 2);
    let twin = session.evidence.generations[generation].receipts[index].clone();
    session.evidence.generations[generation].receipts.push(twin);
    let last = session.evidence.generations[generation].receipts.len() - 1;
    resign(&mut session, (generation, last), |signed| {
        signed.sampler.as_mut().unwrap().sampler.tokens[0] ^= 1;
    });
    let blamed = Blame::Key(signer(&session.evidence, generation, 2));
    caught(&session.evidence, |what| *what == What::Equivocation, blamed);
}

#[test]
fn replayed_receipts_are_the_fault_of_who_shows_them() {
    // From another session.
    let (mut session, other) = (honest(3), honest(4));
    let (generation, _) = place(&session.evidence, 1);
    let (from, index) = place(&other.evidence, 1);
    let replayed = other.evidence.generations[from].receipts[index].clone();
    session.evidence.generations[generation].receipts.push(replayed.clone());
    let foreign = |what: &What| matches!(what, What::ReceiptInvalid(ReceiptError::OtherOpen));
    caught(&session.evidence, foreign, Blame::Key(router()));
    // In a file the open goes without saying.
    let bytes = replayed.encode();
    let relabelled = SignedReceipt::decode(&bytes, &session.opens[generation]).unwrap();
    session.evidence.generations[generation].receipts.pop();
    session.evidence.generations[generation].receipts.push(relabelled);
    let unsigned = |what: &What| matches!(what, What::ReceiptInvalid(ReceiptError::NotByHop(1)));
    caught(&session.evidence, unsigned, Blame::Key(router()));
    // From another generation.
    let mut session = honest(3);
    let earlier = session.evidence.generations[0].receipts[0].clone();
    session.evidence.generations[1].receipts.push(earlier);
    caught(&session.evidence, foreign, Blame::Key(router()));
}

#[test]
fn a_broken_chain_names_the_hop() {
    for hop in 0..3 {
        let mut session = honest(3);
        let at = place(&session.evidence, hop);
        resign(&mut session, at, |signed| signed.receipt.prev = Digest::from_bytes([1; 32]));
        let blamed = Blame::Key(signer(&session.evidence, at.0, hop));
        caught(&session.evidence, |what| *what == What::ReceiptChain, blamed);
    }
}

#[test]
fn a_price_over_the_open_names_the_hop() {
    let mut session = honest(3);
    let at = place(&session.evidence, 1);
    resign(&mut session, at, |signed| {
        signed.receipt.price_due = signed.receipt.price_due.plus(Amount::new(1));
    });
    let blamed = Blame::Key(signer(&session.evidence, at.0, 1));
    let price = |what: &What| matches!(what, What::ReceiptInvalid(ReceiptError::Price { hop: 1, .. }));
    caught(&session.evidence, price, blamed);
}

#[test]
fn rows_beyond_the_cut_name_the_hop() {
    let mut session = honest(3);
    let at = place(&session.evidence, 1);
    resign(&mut session, at, |signed| signed.receipt.rows.end += 1);
    let blamed = Blame::Key(signer(&session.evidence, at.0, 1));
    let rows = |what: &What| matches!(what, What::ReceiptInvalid(ReceiptError::Rows(1)));
    caught(&session.evidence, rows, blamed);
}

#[test]
fn rows_that_nobody_asked_for_name_the_hop() {
    // The last generation's ragged receipt, moved beyond the last token of the answer.
    let mut session = honest(3);
    let generation = session.evidence.generations.len() - 1;
    let open = session.opens[generation].open().clone();
    let end = open.rows_end() + 1;
    let window = open.cuts().window(end - 1);
    let rows = open.rows_of(1).unwrap().covered(window, end).unwrap();
    let due = open.price_due(1, end).unwrap();
    let at = (generation, session.evidence.generations[generation].receipts.len());
    let (_, index) = place(&session.evidence, 1);
    let copy = session.evidence.generations[generation].receipts[index].clone();
    session.evidence.generations[generation].receipts.push(copy);
    resign(&mut session, at, |signed| {
        (signed.receipt.rows, signed.receipt.price_due) = (rows, due);
        signed.leaves = Leaves::default();
    });
    let blamed = Blame::Key(signer(&session.evidence, generation, 1));
    let rows = |what: &What| matches!(what, What::ReceiptInvalid(ReceiptError::Rows(1)));
    caught(&session.evidence, rows, blamed);
}

#[test]
fn a_receipt_after_the_last_one_names_the_hop() {
    let mut session = honest(3);
    let at = place(&session.evidence, 1);
    let end = session.evidence.generations[at.0].receipts[at.1].receipt.rows.end - 3;
    let due = session.opens[at.0].open().price_due(1, end).unwrap();
    resign(&mut session, at, |signed| {
        signed.receipt.rows.end = end;
        signed.receipt.price_due = due;
        signed.leaves = Leaves::default();
    });
    let blamed = Blame::Key(signer(&session.evidence, at.0, 1));
    caught(&session.evidence, |what| *what == What::AfterTheLast, blamed);
}

#[test]
fn a_missing_acknowledgement_is_the_routers_fault() {
    let mut session = honest(3);
    session.evidence.generations[1].acks.remove(1);
    caught(&session.evidence, |what| *what == What::AckMissing, Blame::Key(router()));
    let mut session = honest(3);
    session.evidence.generations[1].acks[1].signature = key(77).sign(&Digest::ZERO);
    caught(&session.evidence, |what| matches!(what, What::AckInvalid(_)), Blame::Key(router()));
}

#[test]
fn a_router_that_changes_a_price_is_named() {
    let mut session = honest(3);
    let mut open = session.evidence.generations[1].open.open.clone();
    let stays = session.evidence.generations[0].open.open.route.clone();
    let index = open.route.iter().position(|hop| stays.iter().any(|old| old.stays_as(hop))).unwrap();
    open.route[index].price_decode = Amount::new(8);
    session.evidence.generations[1].open = open.sign(&key(ROUTER)).unwrap().signed().clone();
    let chain = |what: &What| matches!(what, What::OpenChain(ChainError::Price(_)));
    caught(&session.evidence, chain, Blame::Key(router()));
}

#[test]
fn a_forged_token_names_the_tail() {
    // A token that the tail chose against its own logits, consistently everywhere.
    let mut session = honest(3);
    let generation = session.evidence.generations.len() - 1;
    let delivered = session.evidence.tokens.len() as u32;
    let mut samples = session.evidence.generations[generation].samples.iter().rev();
    let opened = samples.find(|opened| opened.sample.position().get() < delivered).unwrap().clone();
    let position = opened.sample.position().get();
    let index = session.evidence.generations[generation].receipts.iter().position(|receipt| {
        let tokens = receipt.sampler.as_ref().map(|sampler| &sampler.sampler);
        tokens.is_some_and(|sampler| {
            (sampler.seed_index..sampler.seed_index + sampler.tokens.len() as u32).contains(&position)
        })
    });
    let least = opened.sample.top().last().unwrap().0;
    resign(&mut session, (generation, index.unwrap()), |signed| {
        let sampler = &mut signed.sampler.as_mut().unwrap().sampler;
        let place = (position - sampler.seed_index) as usize;
        sampler.tokens[place] = least;
    });
    let blamed = Blame::Key(signer(&session.evidence, generation, 2));
    caught(&session.evidence, |what| *what == What::TokenForged, blamed);
}

#[test]
fn other_tokens_than_the_tail_signed_for_are_found() {
    let mut session = honest(3);
    let last = session.evidence.tokens.len() - 1;
    session.evidence.tokens[last] ^= 1;
    let tail = signer(&session.evidence, 1, 2);
    caught(&session.evidence, |what| *what == What::Delivered, Blame::OneOf(tail, router()));
    // Another prompt than stage 0 was given.
    let mut session = honest(3);
    session.evidence.tokens[5] ^= 1;
    let report = check(&session.evidence);
    assert!(report.faults().next().is_some());
    for finding in report.faults() {
        let first = signer(&session.evidence, finding.generation as usize, 0);
        assert_eq!(finding.severity, Severity::Fault(Blame::OneOf(router(), first)));
        assert_eq!(finding.what, What::Input);
    }
}

#[test]
fn nobody_answers_for_tokens_that_the_tail_did_not_sign_for() {
    // It may have told router and stage 0 different ones.
    let mut session = honest(3);
    let at = place(&session.evidence, 0);
    resign(&mut session, at, |signed| {
        signed.receipt.in_root = Digest::from_bytes([1; 32]);
        signed.leaves = Leaves::default();
    });
    for receipt in &mut session.evidence.generations[at.0].receipts {
        receipt.sampler = None;
    }
    session.evidence.generations[at.0].samples.clear();
    let report = check(&session.evidence);
    assert!(report.faults().all(|finding| finding.what == What::ReceiptChain), "{:#?}", report.findings);
    assert!(report.gaps().any(|finding| finding.what == What::TokensUnattested));
}

#[test]
fn leaves_and_samples_that_were_made_up_are_the_routers_fault() {
    let mut session = honest(3);
    let generation = &mut session.evidence.generations[1];
    generation.samples[0].path = vec![tree::empty_root(); generation.samples[0].path.len() + 1];
    caught(&session.evidence, |what| *what == What::SampleInvalid, Blame::Key(router()));
    let mut session = honest(3);
    let ragged =
        session.evidence.generations[1].receipts.iter_mut().find(|receipt| receipt.leaves.sent.len() > 1);
    ragged.unwrap().leaves.sent.reverse();
    let leaves = |what: &What| matches!(what, What::ReceiptInvalid(ReceiptError::Leaves(_)));
    caught(&session.evidence, leaves, Blame::Key(router()));
}

#[test]
fn keys_without_a_valid_binding_are_told() {
    let mut session = honest(3);
    session.evidence.bindings.clear();
    let report = check(&session.evidence);
    assert!(report.holds());
    assert!(report.gaps().filter(|finding| finding.what == What::Unbound).count() >= 4);
    let mut session = honest(3);
    let mut bytes = binding(1).encode();
    bytes[100] ^= 1;
    let forged = SignedBinding::decode(&bytes).unwrap();
    session.evidence.bindings.retain(|known| known != &binding(1));
    session.evidence.bindings.push(forged);
    let invalid = |what: &What| *what == What::BindingInvalid(BindingError::NodeSignature);
    caught(&session.evidence, invalid, Blame::Key(router()));
}
