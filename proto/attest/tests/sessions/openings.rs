//! Rows behind the receipts of a session, opened and withheld.

use proptest::prelude::*;
use proto::Position;
use proto_attest::audit::{
    MissingInput, OpeningError, Part, RowOpening, Side, check_side, input_rows, settle,
};
use proto_attest::check::Blame;
use proto_attest::open::VerifiedOpen;
use proto_attest::receipt::{SignedReceipt, VerifiedReceipt};
use proto_attest::{Address, Leaf, LeafHasher, tree};

use crate::swarm::{Course, Session, session};
use crate::text::Text;

fn honest() -> Session {
    session(Course {
        seed: 1,
        hops: 2,
        prompt: 70,
        answer: 20,
        losses: 0,
        reused: 0,
        receipts_are_lost: false,
        stops: false,
    })
}

/// Hop 1's receipt of the prompt and the rows that it sent.
fn opened() -> (Session, VerifiedReceipt, Vec<Vec<u8>>) {
    let session = honest();
    let open = &session.opens[0];
    let mut receipts = session.evidence.generations[0].receipts.iter();
    let receipt = receipts.find(|receipt| receipt.receipt.hop == 1).unwrap().clone().verify(open).unwrap();
    let mut text = Text::new(70);
    let rows = (0..70).map(|row| text.row(8, row)).collect();
    (session, receipt, rows)
}

fn opening(session: &Session, receipt: &VerifiedReceipt, rows: &[Vec<u8>], index: usize) -> RowOpening {
    let open = session.opens[0].open();
    let hasher = LeafHasher::of_rows(open.router, open.session, open.generation);
    let leaves: Vec<Leaf> =
        (0..).zip(rows).map(|(row, bytes)| hasher.leaf(Position::new(row), bytes)).collect();
    RowOpening {
        receipt: receipt.digest(),
        side: Side::Sent,
        position: index as u32,
        row: rows[index].clone(),
        path: tree::prove(&leaves, index).unwrap(),
    }
}

#[test]
fn rows_that_were_signed_for_are_opened() {
    let (session, receipt, rows) = opened();
    let open = session.opens[0].open();
    assert_eq!(check_side(&receipt, open, Side::Sent, rows.iter().map(Vec::as_slice)), Ok(()));
    for index in [0, 31, 69] {
        let opening = opening(&session, &receipt, &rows, index);
        assert_eq!(opening.verify(&receipt, open), Ok(()));
        assert_eq!(RowOpening::decode(&opening.encode()), Ok(opening));
    }
}

#[test]
fn other_rows_are_refused() {
    let (session, receipt, rows) = opened();
    let open = session.opens[0].open();
    let sent = |rows: &[Vec<u8>]| check_side(&receipt, open, Side::Sent, rows.iter().map(Vec::as_slice));
    let mut wrong = rows.clone();
    wrong[3][0] ^= 1;
    assert_eq!(sent(&wrong), Err(OpeningError::Root));
    wrong.pop();
    assert_eq!(sent(&wrong), Err(OpeningError::NotCovered));
    let good = opening(&session, &receipt, &rows, 5);
    let mut moved = good.clone();
    moved.position = 6;
    assert_eq!(moved.verify(&receipt, open), Err(OpeningError::Root));
    moved.position = 70;
    assert_eq!(moved.verify(&receipt, open), Err(OpeningError::NotCovered));
    let mut other = good.clone();
    other.side = Side::Received;
    assert_eq!(other.verify(&receipt, open), Err(OpeningError::Root));
    let mut other = good;
    other.receipt = proto_attest::Digest::ZERO;
    assert_eq!(other.verify(&receipt, open), Err(OpeningError::OtherReceipt));
}

/// The rows of hop 1's node that it had in the last generation in which it took part.
fn inputs(session: &Session, end: u32) -> Result<Vec<(usize, std::ops::Range<u32>)>, MissingInput> {
    let node = session.opens.last().unwrap().open().route[1].node;
    let took_part = |open: &&VerifiedOpen| open.open().route[1].node == node;
    let opens: Vec<&VerifiedOpen> = session.opens.iter().filter(took_part).collect();
    let receipts: Vec<Vec<VerifiedReceipt>> = opens
        .iter()
        .map(|open| {
            let shown = &session.evidence.generations[open.open().generation.get() as usize].receipts;
            let of_hop = shown.iter().filter(|receipt| receipt.receipt.hop == 1);
            of_hop.map(|receipt| receipt.clone().verify(open).unwrap()).collect()
        })
        .collect();
    let parts = opens.iter().zip(&receipts);
    let parts: Vec<Part<'_>> =
        parts.map(|(open, receipts)| Part { open: open.open(), hop: 1, receipts }).collect();
    let found = input_rows(&parts, 0, end)?;
    Ok(found.into_iter().map(|rows| (rows.part, rows.rows)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Over recoveries too, a node's receipts hold all rows that it computed from, each once.
    #[test]
    fn inputs_are_found_over_generations(seed: u64, losses in 0usize..4) {
        let (receipts_are_lost, stops) = (false, false);
        let course = Course { seed, hops: 3, prompt: 300, answer: 60, losses, reused: 0, receipts_are_lost, stops };
        let session = session(course);
        let end = session.evidence.tokens.len() as u32 - 1;
        let found = inputs(&session, end).unwrap();
        let mut next = 0;
        for (_, rows) in &found {
            prop_assert_eq!(rows.start, next);
            next = rows.end;
        }
        prop_assert_eq!(next, end);
        prop_assert!(found.is_sorted_by_key(|(part, _)| *part));
    }
}

#[test]
fn missing_inputs_are_told() {
    let mut session = honest();
    let of_hop = |receipt: &SignedReceipt| receipt.receipt.hop == 1;
    let first = session.evidence.generations[0].receipts.iter().position(of_hop).unwrap();
    assert_eq!(inputs(&session, 89), Ok(vec![(0, 0..70), (0, 70..89)]));
    session.evidence.generations[0].receipts.remove(first);
    assert_eq!(inputs(&session, 89), Err(MissingInput(0..70)));
}

#[test]
fn a_contradiction_is_settled_by_who_can_not_open() {
    let (a, b) = (Address::from_bytes([1; 20]), Address::from_bytes([2; 20]));
    let (good, bad) = (Ok(()), Err(OpeningError::Root));
    assert_eq!(settle((a, bad), (b, good)), [Blame::Key(a)]);
    assert_eq!(settle((a, good), (b, bad)), [Blame::Key(b)]);
    assert_eq!(settle((a, bad), (b, bad)), [Blame::Key(a), Blame::Key(b)]);
    assert_eq!(settle((a, good), (b, good)), [Blame::OneOf(a, b)]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(opening) = RowOpening::decode(&bytes) {
            prop_assert_eq!(opening.encode(), bytes);
        }
    }
}
