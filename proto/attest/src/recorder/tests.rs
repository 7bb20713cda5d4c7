//! Recorders of hops that begin, go on, resend and stop.

use proptest::prelude::*;
use proto::tensor::NumericsClass;
use proto::{Generation, LayerSpan, ModelId, NodeId, SessionId};

use super::*;
use crate::cuts::Covered;
use crate::open::{LaneId, RouteHop, SessionOpen};
use crate::{Amount, ReceiptKey};

/// A generation with `known` rows whose hops go on at `goes_on`.
fn open(known: u32, goes_on: &[u32]) -> VerifiedOpen {
    let key = ReceiptKey::from_bytes(&[9; 32]).unwrap();
    let hop = |index: usize| RouteHop {
        node: NodeId::from_bytes([index as u8; 32]),
        span: LayerSpan::new(index as u32, index as u32 + 1).unwrap(),
        receipt_key: key.address(),
        lane: LaneId::UNPAID,
        price_prefill: Amount::ZERO,
        price_decode: Amount::ZERO,
        goes_on: goes_on[index],
    };
    let open = SessionOpen {
        router: NodeId::from_bytes([9; 32]),
        router_key: key.address(),
        session: SessionId::new(1),
        generation: Generation::new(1),
        prev: Digest::from_bytes([1; 32]),
        model: ModelId::from_bytes([8; 32]),
        class: NumericsClass::Bf16,
        n_layers: goes_on.len() as u32,
        route: (0..goes_on.len()).map(hop).collect(),
        prompt_rows: known,
        forced_rows: 0,
        sampling_hash: Digest::ZERO,
        seed_commit: Digest::ZERO,
        max_tokens: 64,
        opened_unix_s: 1_000,
        deadline_unix_s: 2_000,
    };
    open.sign(&key).unwrap()
}

fn recorder(open: &VerifiedOpen, hop: u16, cites: Option<Digest>) -> Recorder {
    Recorder::new(open, RecorderTerms { hop, exec_build: Digest::ZERO, cites, epoch: 1 }).unwrap()
}

fn leaves(from: u32, to: u32) -> Vec<Leaf> {
    (from..to).map(|row| Leaf::from_bytes(*blake3::hash(&row.to_le_bytes()).as_bytes())).collect()
}

fn rows(drafts: &[Draft]) -> Vec<(u32, u32, u32)> {
    let rows = drafts.iter().map(|draft| draft.receipt.rows);
    rows.map(|Covered { start, sent_start, end }| (start, sent_start, end)).collect()
}

#[test]
fn receipts_come_at_the_cuts_in_a_chain() {
    let open = open(300, &[0, 0]);
    let mut recorder = recorder(&open, 0, None);
    assert_eq!(recorder.newest(), None);
    assert!(recorder.received(0, &leaves(0, 300)).unwrap().is_empty());
    let first = recorder.sent(0, &leaves(0, 257)).unwrap();
    let second = recorder.sent(257, &leaves(257, 300)).unwrap();
    assert_eq!((rows(&first), rows(&second)), (vec![(0, 0, 256)], vec![(256, 256, 300)]));
    assert_eq!(first[0].receipt.prev, open.digest());
    assert_eq!(second[0].receipt.prev, first[0].digest);
    assert_eq!(first[0].receipt.in_root, tree::root(&leaves(0, 256)));
    for row in 300..340 {
        recorder.received(row, &leaves(row, row + 1)).unwrap();
        let drafts = recorder.sent(row, &leaves(row, row + 1)).unwrap();
        assert_eq!(drafts.len(), usize::from(row == 331));
    }
    let closing = recorder.end();
    let ragged = closing.ragged.unwrap();
    assert_eq!(rows(std::slice::from_ref(&ragged)), [(332, 332, 340)]);
    assert_eq!(ragged.leaves.sent, leaves(332, 340));
    assert_eq!(closing.sent.len(), KEPT_DECODE);
    assert_eq!(closing.sent[1].leaves, leaves(300, 332));
    assert_eq!(recorder.newest(), Some(ragged.digest));
    assert_eq!(recorder.end(), Closing::default());
    assert_eq!(recorder.sent(340, &[]), Err(RecorderError::Ended));
    let sent = &closing.sent[0];
    assert_eq!(SentLeaves::decode(&sent.encode()).as_ref(), Ok(sent));
}

#[test]
fn the_tail_waits_for_its_tokens() {
    let open = open(40, &[0, 0]);
    let mut recorder = recorder(&open, 1, None);
    recorder.received(0, &leaves(0, 40)).unwrap();
    assert!(recorder.sent(0, &leaves(0, 40)).unwrap().is_empty());
    let drafts = recorder.sampled(40, 7, leaves(0, 1)[0]).unwrap();
    assert_eq!(drafts[0].sampler.as_ref().unwrap().tokens, [7]);
    assert_eq!(drafts[0].sampler.as_ref().unwrap().seed_index, 40);
    recorder.received(40, &leaves(40, 41)).unwrap();
    recorder.sent(40, &leaves(40, 41)).unwrap();
    // It failed before it chose: the row is in no receipt.
    assert_eq!(recorder.end(), Closing::default());
}

#[test]
fn a_hop_that_goes_on_signs_what_it_sends_again_and_what_it_computes() {
    // Hop 1 is new; hop 0 has kept 290 of 300 rows and sends them once more.
    let open = open(300, &[290, 0]);
    let cited = Digest::from_bytes([5; 32]);
    let mut kept = recorder(&open, 0, Some(cited));
    let drafts = kept.sent(0, &leaves(0, 290)).unwrap();
    assert_eq!(rows(&drafts), [(256, 0, 256)]);
    assert_eq!(drafts[0].receipt.prev, cited);
    assert_eq!(drafts[0].receipt.in_root, tree::empty_root());
    kept.received(290, &leaves(290, 300)).unwrap();
    assert_eq!(rows(&kept.sent(290, &leaves(290, 300)).unwrap()), [(290, 256, 300)]);
    // The other way round: hop 1 has kept rows that hop 0 has not.
    let open = self::open(300, &[0, 290]);
    let mut new = recorder(&open, 0, Some(cited));
    let drafts = new.received(0, &leaves(0, 300)).unwrap();
    assert_eq!(rows(&drafts), [(0, 256, 256)]);
    assert_eq!(drafts[0].receipt.prev, open.digest());
    assert_eq!(rows(&new.sent(290, &leaves(290, 300)).unwrap()), [(256, 290, 300)]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_leaves_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(leaves) = SentLeaves::decode(&bytes) {
            prop_assert_eq!(leaves.encode(), bytes);
        }
    }
}

#[test]
fn rows_beyond_the_answer_are_refused() {
    let open = open(300, &[0]);
    let mut recorder = recorder(&open, 0, None);
    assert_eq!(recorder.received(0, &leaves(0, 365)), Err(RecorderError::Beyond(0)));
    assert!(recorder.received(0, &leaves(0, 364)).is_ok());
    assert_eq!(recorder.received(364, &leaves(364, 365)), Err(RecorderError::Beyond(364)));
}

#[test]
fn rows_out_of_order_are_refused() {
    let open = open(300, &[0, 0]);
    let mut recorder = recorder(&open, 0, None);
    assert_eq!(recorder.received(1, &leaves(1, 2)), Err(RecorderError::Order { expected: 0, got: 1 }));
    recorder.received(0, &leaves(0, 2)).unwrap();
    assert!(recorder.received(1, &leaves(1, 2)).is_err());
    assert_eq!(recorder.sampled(300, 1, leaves(0, 1)[0]), Err(RecorderError::NotTheTail));
    let unknown = RecorderTerms { hop: 2, exec_build: Digest::ZERO, cites: None, epoch: 0 };
    assert!(matches!(Recorder::new(&open, unknown), Err(RecorderError::UnknownHop(2))));
}
