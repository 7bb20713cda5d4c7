//! Rules of a book: what is signed, what is refused, what is bounded.

use proto::session::PlanStage;
use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId, NodeId, NodeKey, SessionId};
use proto_attest::keys::KeyBinding;
use proto_attest::open::{RouteHop, SessionOpen};
use proto_attest::{OperatorKey, ReceiptKey};

use super::*;

const NOW: u64 = 1_800_000_000;
const ROW: usize = 4;

fn router_key() -> ReceiptKey {
    ReceiptKey::from_bytes(&[7; 32]).unwrap()
}

fn own_key() -> ReceiptKey {
    ReceiptKey::from_bytes(&[8; 32]).unwrap()
}

fn router() -> VerifiedBinding {
    let (node, operator) = (NodeKey::from_seed(&[1; 32]), OperatorKey::from_bytes(&[6; 32]).unwrap());
    let binding = KeyBinding {
        node: node.node_id(),
        operator: operator.address(),
        receipt: router_key().address(),
        sequence: 1,
        issued_unix_s: NOW,
        expires_unix_s: NOW + 1000,
    };
    binding.sign_with_both(&node, &operator).verify(NOW).unwrap()
}

/// A middle stage that holds `held` rows.
fn facts(held: u32, resumes: bool) -> Facts {
    let stage = |number: u8, start, end| PlanStage {
        node: NodeId::from_bytes([number; 32]),
        addr: ([127, 0, 0, 1], 7401).into(),
        span: LayerSpan::new(start, end).unwrap(),
    };
    let plan = proto::session::Plan {
        model: ModelId::from_bytes([5; 32]),
        class: NumericsClass::Exact,
        n_layers: 3,
        stages: vec![stage(10, 0, 1), stage(11, 1, 2), stage(12, 2, 3)],
    };
    Facts { plan, stage: 1, held, resumes, sampling: None, reuses: None, row_bytes: ROW }
}

fn book(held: u32, resumes: bool) -> Book {
    let key = SessionKey { router: router().binding().node, session: SessionId::new(3) };
    Book::new(key, Generation::new(0), facts(held, resumes))
}

fn open(goes_on: u32) -> SessionOpen {
    let facts = facts(0, false);
    let key = |stage: usize| if stage == 1 { own_key().address() } else { router_key().address() };
    let hop = |(stage, at): (usize, &PlanStage)| RouteHop {
        node: at.node,
        span: at.span,
        receipt_key: key(stage),
        lane: LaneId::UNPAID,
        price_prefill: Amount::ZERO,
        price_decode: Amount::ZERO,
        goes_on,
    };
    SessionOpen {
        router: router().binding().node,
        router_key: router_key().address(),
        session: SessionId::new(3),
        generation: Generation::new(0),
        prev: Digest::ZERO,
        model: facts.plan.model,
        class: facts.plan.class,
        n_layers: 3,
        route: facts.plan.stages.iter().enumerate().map(hop).collect(),
        prompt_rows: 200,
        forced_rows: 0,
        sampling_hash: Digest::ZERO,
        seed_commit: Digest::ZERO,
        max_tokens: 50,
        opened_unix_s: NOW,
        deadline_unix_s: NOW + 60,
    }
}

fn attest(open: SessionOpen) -> Attest {
    let open = open.sign(&router_key()).unwrap().signed().encode();
    Attest {
        session: SessionId::new(3),
        generation: Generation::new(0),
        binding: router().signed().encode(),
        open,
        salt: None,
    }
}

const OWN_BUILD: Digest = Digest::ZERO;

fn agree(book: &mut Book, open: SessionOpen, now: u64) -> Result<Vec<Cut>, DisagreeError> {
    let own = Own { receipt_key: own_key().address(), exec_build: OWN_BUILD, epoch: 1 };
    book.agree(&attest(open), &router(), own, &Before::default(), now).map(|(_, _, drafts)| drafts)
}

fn rows(count: usize) -> Vec<u8> {
    (0..count * ROW).map(|byte| byte as u8).collect()
}

#[test]
fn rows_that_came_before_the_open_are_signed_for_as_well() {
    let (mut early, mut late) = (book(0, false), book(0, false));
    agree(&mut late, open(0), NOW).unwrap();
    for (start, count) in [(0, 120), (120, 80)] {
        let start = Position::new(start);
        assert!(early.received(start, &rows(count)).unwrap().is_empty());
        assert!(early.sent(start, &rows(count)).unwrap().is_empty());
        assert!(late.received(start, &rows(count)).unwrap().is_empty());
    }
    late.sent(Position::new(0), &rows(120)).unwrap();
    let after = late.sent(Position::new(120), &rows(80)).unwrap();
    assert_eq!(agree(&mut early, open(0), NOW).unwrap(), after);
    assert_eq!((after.len(), after[0].draft.receipt.rows.end), (1, 200));
    let whole = [rows(120), rows(80)].concat();
    assert_eq!((&after[0].received, &after[0].sent), (&whole, &whole));
    // A ragged one at the end.
    early.received(Position::new(200), &rows(3)).unwrap();
    early.sent(Position::new(200), &rows(2)).unwrap();
    let last = early.end().0.unwrap();
    assert_eq!((last.draft.receipt.rows.end, last.received, last.sent), (202, rows(2), rows(2)));
}

#[test]
fn an_open_is_signed_only_if_it_says_what_was_agreed() {
    let refused = |change: fn(&mut SessionOpen), words: &str| {
        let mut open = open(0);
        change(&mut open);
        let error = agree(&mut book(0, false), open, NOW).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(|open| open.model = ModelId::from_bytes([6; 32]), "not of the plan");
    refused(|open| open.class = NumericsClass::Bf16, "not of the plan");
    refused(|open| open.session = SessionId::new(4), "another session");
    refused(|open| open.route[1].receipt_key = open.route[0].receipt_key, "something else");
    refused(|open| open.route[1].goes_on = 64, "something else");
    let hour = agree(&mut book(0, false), open(0), NOW + 3600).unwrap_err();
    assert!(hour.to_string().contains("check the clocks"), "{hour}");
    let mut twice = book(0, false);
    agree(&mut twice, open(0), NOW).unwrap();
    assert!(matches!(agree(&mut twice, open(0), NOW), Err(DisagreeError::Twice)));
}

#[test]
fn a_prompt_begins_at_any_whole_block_held_and_a_later_generation_behind_all() {
    for (held, resumes, goes_on, agrees) in [
        (128, false, 128, true),
        (128, false, 64, true),
        (128, false, 0, true),
        (128, false, 65, false),
        (128, false, 192, false),
        (100, true, 100, true),
        (100, true, 64, false),
    ] {
        let agreed = agree(&mut book(held, resumes), open(goes_on), NOW);
        assert_eq!(agreed.is_ok(), agrees, "{held} {resumes} {goes_on}: {agreed:?}");
    }
}

#[test]
fn what_waits_for_an_open_is_bounded() {
    let mut book = book(0, false);
    let chunk = 1 << 10;
    let mut start = 0;
    let refused = loop {
        match book.received(Position::new(start), &rows(chunk)) {
            Ok(_) => start += chunk as u32,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, DisagreeError::Late(_)));
    assert!(start as usize <= MOST_WAITING);
    book.give_up();
    assert!(book.received(Position::new(start), &rows(1)).unwrap().is_empty());
    assert!(book.end().0.is_none());
}
