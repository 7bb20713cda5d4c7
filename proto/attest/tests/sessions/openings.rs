//! Rows behind the receipts of a session, opened and withheld.

use proptest::prelude::*;
use proto::Position;
use proto_attest::audit::{OpeningError, RowOpening, Side, check_side, settle};
use proto_attest::check::Blame;
use proto_attest::receipt::VerifiedReceipt;
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
