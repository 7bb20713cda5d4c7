//! What a router can claim wrongly about a session as a whole, and what is only told.

use proto_attest::Digest;
use proto_attest::check::{Blame, Severity, What, check};
use proto_attest::open::SignedOpen;
use proto_attest::receipt::SignedReceipt;

use crate::swarm::{Course, ROUTER, Session, key, key_of, session};

fn honest(losses: usize) -> Session {
    session(Course {
        seed: 12,
        hops: 3,
        prompt: 300,
        answer: 90,
        losses,
        reused: 0,
        receipts_are_lost: false,
        stops: false,
    })
}

fn accused_of(session: &Session, what: What) {
    let report = check(&session.evidence);
    let router = Severity::Fault(Blame::Key(key(ROUTER).address()));
    let found = report.faults().any(|finding| finding.what == what && finding.severity == router);
    assert!(found, "{:#?}", report.findings);
}

#[test]
fn a_number_of_tokens_that_can_not_be_is_the_routers_fault() {
    let mut session = honest(0);
    session.evidence.tokens.truncate(299);
    accused_of(&session, What::TokenCount);
    let mut session = honest(0);
    session.evidence.tokens.push(1);
    accused_of(&session, What::TokenCount);
}

#[test]
fn other_terms_than_the_open_names_are_the_routers_fault() {
    let mut session = honest(0);
    session.evidence.terms.as_mut().unwrap().params.seed += 1;
    accused_of(&session, What::Terms);
    // And the tail is not accused of tokens that don't follow from them.
    let report = check(&session.evidence);
    assert_eq!(report.guilty(), [key(ROUTER).address()]);
}

#[test]
fn an_open_of_another_router_is_the_fault_of_who_shows_it() {
    let mut session = honest(0);
    session.evidence.presenter = key(50).address();
    let report = check(&session.evidence);
    assert_eq!(report.guilty(), [key(50).address()]);
    assert!(report.faults().any(|finding| finding.what == What::OpenOfAnother));
}

#[test]
fn a_tampered_open_ends_the_check() {
    let mut session = honest(0);
    session.evidence.generations[0].open.open.max_tokens += 1;
    let report = check(&session.evidence);
    assert!(matches!(report.findings[0].what, What::OpenInvalid(_)));
    assert_eq!((report.receipts_verified, report.guilty().len()), (0, 1));
}

#[test]
fn generations_that_are_not_shown_are_a_gap() {
    let mut session = honest(2);
    session.evidence.generations.remove(0);
    let report = check(&session.evidence);
    assert!(report.holds(), "{:#?}", report.faults().collect::<Vec<_>>());
    assert!(report.gaps().any(|finding| finding.what == What::EarlierGenerationsMissing));
}

#[test]
fn a_token_constrained_by_a_grammar_is_never_called_forged() {
    let mut session = honest(0);
    // Terms that say so are of another hash: the open must have named them.
    let terms = session.evidence.terms.as_mut().unwrap();
    terms.constrained = true;
    let hash = terms.hash();
    assert_ne!(hash, session.evidence.generations[0].open.open.sampling_hash);
    accused_of(&session, What::Terms);
}

/// The first receipt of a hop in the last generation in which it goes on from kept rows, of a session that has one.
fn that_goes_on() -> (Session, usize, usize) {
    for seed in 0.. {
        let course = Course {
            seed,
            hops: 3,
            prompt: 300,
            answer: 90,
            losses: 2,
            reused: 0,
            receipts_are_lost: false,
            stops: false,
        };
        let session = session(course);
        for generation in [1, 2] {
            let open = session.opens[generation].open();
            let receipts = &session.evidence.generations[generation].receipts;
            let before = &session.evidence.generations[generation - 1];
            let index = receipts.iter().position(|receipt| {
                let hop = &open.route[usize::from(receipt.receipt.hop)];
                let place = before.open.open.route.iter().position(|old| old.stays_as(hop));
                let signed = |old: &&SignedReceipt| Some(usize::from(old.receipt.hop)) == place;
                hop.goes_on > 0
                    && receipt.receipt.rows.end > hop.goes_on
                    && before.receipts.iter().filter(signed).count() > 1
            });
            if let Some(index) = index {
                return (session, generation, index);
            }
        }
    }
    unreachable!("some session has one");
}

fn cite(session: &mut Session, generation: usize, index: usize, prev: Digest) -> proto_attest::Address {
    let open = session.opens[generation].open().clone();
    let signed = &mut session.evidence.generations[generation].receipts[index];
    signed.receipt.prev = prev;
    let key = key_of(open.route[usize::from(signed.receipt.hop)].receipt_key);
    let digest = signed.receipt.digest(&open);
    signed.signature = key.sign(&digest);
    signed.sampler = signed.sampler.take().map(|sampler| sampler.sampler.sign(&digest, &key));
    key.address()
}

/// All receipts of a hop's node in the generation before, by digest, the newest last.
fn before(session: &Session, generation: usize, index: usize) -> Vec<Digest> {
    let hop = session.evidence.generations[generation].receipts[index].receipt.hop;
    let hop = &session.opens[generation].open().route[usize::from(hop)];
    let old = &session.opens[generation - 1];
    let place = old.open().route.iter().position(|old| old.stays_as(hop)).unwrap();
    let shown = &session.evidence.generations[generation - 1].receipts;
    let mut receipts: Vec<_> = shown.iter().filter(|old| usize::from(old.receipt.hop) == place).collect();
    receipts.sort_by_key(|receipt| receipt.receipt.rows.end);
    receipts.iter().map(|receipt| receipt.receipt.digest(old.open())).collect()
}

#[test]
fn a_hop_that_cites_an_older_receipt_forks_its_chain() {
    let (mut session, generation, index) = that_goes_on();
    let receipts = before(&session, generation, index);
    assert_eq!(receipts.last(), Some(&session.evidence.generations[generation].receipts[index].receipt.prev));
    let hop = cite(&mut session, generation, index, receipts[0]);
    let report = check(&session.evidence);
    let forked =
        |blame| report.faults().any(|f| f.what == What::Forked && f.severity == Severity::Fault(blame));
    assert!(forked(Blame::Key(hop)), "{:#?}", report.findings);
    assert_eq!(report.guilty(), [hop]);
}

#[test]
fn kept_rows_without_their_receipts_are_a_gap() {
    let (mut session, generation, index) = that_goes_on();
    let hop = session.evidence.generations[generation].receipts[index].receipt.hop;
    // Alone in its generation, so that the change breaks no chain behind it.
    let of_hop = |receipt: &SignedReceipt| receipt.receipt.hop == hop;
    let first = session.evidence.generations[generation].receipts[index].clone();
    session.evidence.generations[generation].receipts.retain(|receipt| !of_hop(receipt));
    session.evidence.generations[generation].receipts.insert(0, first);
    for prev in [Digest::from_bytes([9; 32]), session.opens[generation].digest()] {
        cite(&mut session, generation, 0, prev);
        let report = check(&session.evidence);
        assert!(report.gaps().any(|finding| finding.what == What::KeptRowsUncited), "{:#?}", report.findings);
        assert!(report.guilty().is_empty());
    }
    // But not another node's.
    let other = session.evidence.generations[generation - 1].receipts.iter().find(|receipt| {
        let open = session.opens[generation - 1].open();
        let now = &session.opens[generation].open().route[usize::from(hop)];
        !open.route[usize::from(receipt.receipt.hop)].stays_as(now)
    });
    let other = other.unwrap().receipt.digest(session.opens[generation - 1].open());
    let key = cite(&mut session, generation, 0, other);
    let report = check(&session.evidence);
    assert!(report.faults().any(|finding| finding.what == What::ReceiptChain));
    assert_eq!(report.guilty(), [key]);
}

#[test]
fn a_finding_is_told_in_one_line() {
    let mut session = honest(0);
    session.evidence.generations[0].receipts[0].receipt.epoch += 1;
    let report = check(&session.evidence);
    let told = report.faults().next().unwrap().to_string();
    let router = key(ROUTER).address();
    assert_eq!(
        told,
        format!("generation 0, hop 0, rows 0..256: receipt of hop 0 is not signed by its key (key {router})")
    );
    let open: SignedOpen = session.evidence.generations[0].open.clone();
    assert!(SignedOpen::decode(&open.encode()).is_ok());
}
