//! Receipts of one hop: sizes, what breaks them, and bytes that are none.

use proptest::prelude::*;
use proto::tensor::NumericsClass;
use proto::{Generation, LayerSpan, ModelId, NodeId, SessionId};

use super::*;
use crate::open::{LaneId, RouteHop};

fn key(number: u8) -> ReceiptKey {
    ReceiptKey::from_bytes(&[number; 32]).unwrap()
}

fn open(session: u64) -> VerifiedOpen {
    let hop = |number: u8, start, end| RouteHop {
        node: NodeId::from_bytes([number; 32]),
        span: LayerSpan::new(start, end).unwrap(),
        receipt_key: key(number).address(),
        lane: LaneId::from_bytes([number; 32]),
        price_prefill: Amount::new(1),
        price_decode: Amount::new(10),
        goes_on: 0,
    };
    let open = SessionOpen {
        router: NodeId::from_bytes([9; 32]),
        router_key: key(9).address(),
        session: SessionId::new(session),
        generation: Generation::new(0),
        prev: Digest::ZERO,
        model: ModelId::from_bytes([8; 32]),
        class: NumericsClass::Bf16,
        n_layers: 30,
        route: vec![hop(1, 0, 10), hop(2, 10, 30)],
        prompt_rows: 40,
        forced_rows: 0,
        sampling_hash: Digest::ZERO,
        seed_commit: Digest::ZERO,
        max_tokens: 64,
        opened_unix_s: 1_000,
        deadline_unix_s: 2_000,
    };
    open.sign(&key(9)).unwrap()
}

fn leaves(from: u32, to: u32) -> Vec<Leaf> {
    (from..to).map(|row| Leaf::from_bytes(*blake3::hash(&row.to_le_bytes()).as_bytes())).collect()
}

/// Hop 1, the tail, over the decode rows `[40, end)`, with all that can be sent along.
fn draft(open: &VerifiedOpen, end: u32) -> Draft {
    let leaves = Leaves { received: leaves(40, end), sent: leaves(140, 100 + end) };
    let receipt = HopReceipt {
        open: open.digest(),
        hop: 1,
        phase: Phase::Decode,
        rows: Covered { start: 40, sent_start: 40, end },
        in_root: tree::root(&leaves.received),
        out_root: tree::root(&leaves.sent),
        exec_build: Digest::from_bytes([3; 32]),
        prev: open.digest(),
        price_due: Amount::new(40 + 10 * u128::from(end - 40)),
        epoch: 5,
    };
    let tokens = (0..end - 40).map(|index| 1000 + index).collect();
    let sampler = SamplerReceipt { seed_index: 41, tokens, samples_root: Digest::from_bytes([6; 32]) };
    Draft { digest: receipt.digest(open.open()), receipt, sampler: Some(sampler), leaves }
}

/// Signs what the test changed.
fn signed(open: &VerifiedOpen, spoil: impl FnOnce(&mut Draft)) -> SignedReceipt {
    let mut draft = draft(open, 72);
    spoil(&mut draft);
    draft.digest = draft.receipt.digest(open.open());
    draft.sign(&key(2))
}

#[test]
fn a_full_receipt_is_under_sixteen_bytes_a_token() {
    let open = open(1);
    let mut full = signed(&open, |draft| draft.leaves = Leaves::default());
    let tail = full.encode().len();
    full.sampler = None;
    let hop = full.encode().len();
    assert_eq!((hop, tail), (SignedReceipt::BYTES, 462));
    assert!(tail <= 16 * 32 && hop <= 8 * 32, "{hop} and {tail} bytes");
}

#[test]
fn receipts_round_trip_with_all_that_belongs_to_them() {
    let open = open(1);
    for end in [41, 50, 72] {
        let signed = draft(&open, end).sign(&key(2));
        assert_eq!(SignedReceipt::decode(&signed.encode(), &open), Ok(signed.clone()));
        let verified = signed.verify(&open).unwrap();
        assert_eq!(verified.receipt().is_ragged(open.open()), end < 72);
        assert_eq!(verified.signer(open.open()), Some(key(2).address()));
        assert_eq!(verified.digest(), draft(&open, end).digest);
    }
}

#[test]
fn what_a_hop_signed_wrongly_is_its_own_fault() {
    type Case = (fn(&mut Draft), ReceiptError);
    let open = open(1);
    let cases: [Case; 10] = [
        (|draft| draft.receipt.rows.start = 41, ReceiptError::Rows(1)),
        (|draft| draft.receipt.rows.end = 73, ReceiptError::Rows(1)),
        (|draft| draft.receipt.rows.sent_start = 72, ReceiptError::Rows(1)),
        (|draft| draft.receipt.phase = Phase::Prefill, ReceiptError::Rows(1)),
        (|draft| draft.receipt.in_root = tree::empty_root(), ReceiptError::EmptyRoot(1)),
        (
            |draft| draft.receipt.price_due = Amount::new(361),
            ReceiptError::Price { hop: 1, due: Amount::new(360), signed: Amount::new(361) },
        ),
        (
            |draft| draft.receipt.price_due = Amount::new(359),
            ReceiptError::Price { hop: 1, due: Amount::new(360), signed: Amount::new(359) },
        ),
        (|draft| draft.sampler.as_mut().unwrap().tokens.truncate(31), ReceiptError::Tokens(1)),
        (|draft| draft.sampler.as_mut().unwrap().seed_index = 40, ReceiptError::Tokens(1)),
        (|draft| draft.receipt.rows.end = 0, ReceiptError::Rows(1)),
    ];
    for (spoil, error) in cases {
        assert_eq!(signed(&open, spoil).verify(&open).unwrap_err(), error);
        assert!(error.is_signed());
    }
}

#[test]
fn what_no_hop_signed_is_the_fault_of_who_shows_it() {
    let (open, other) = (open(1), open(2));
    let refused = |receipt: SignedReceipt, under: &VerifiedOpen, error: ReceiptError| {
        assert_eq!(receipt.verify(under).unwrap_err(), error);
        assert!(!error.is_signed());
    };
    let good = || signed(&open, |_| {});
    refused(good(), &other, ReceiptError::OtherOpen);
    // On the wire the open goes without saying: a replayed receipt has a signature that fits nobody.
    let replayed = SignedReceipt::decode(&good().encode(), &other).unwrap();
    refused(replayed, &other, ReceiptError::NotByHop(1));
    refused(draft(&open, 72).sign(&key(1)), &open, ReceiptError::NotByHop(1));
    let mut tampered = good();
    tampered.receipt.out_root = Digest::from_bytes([1; 32]);
    refused(tampered, &open, ReceiptError::NotByHop(1));
    let mut tampered = good();
    tampered.sampler.as_mut().unwrap().sampler.tokens[3] += 1;
    refused(tampered, &open, ReceiptError::NotByHop(1));
    let mut tampered = good();
    tampered.leaves.received[3] = tampered.leaves.received[4];
    refused(tampered, &open, ReceiptError::Leaves(1));
    refused(signed(&open, |draft| draft.receipt.hop = 7), &open, ReceiptError::UnknownHop(7));
}

proptest! {
    #[test]
    fn a_changed_receipt_is_refused(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let open = open(1);
        let mut bytes = draft(&open, 50).sign(&key(2)).encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(SignedReceipt::decode(&bytes, &open).and_then(|receipt| receipt.verify(&open)).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        let open = open(1);
        if let Ok(receipt) = SignedReceipt::decode(&bytes, &open) {
            prop_assert_eq!(receipt.encode(), bytes);
        }
    }
}
