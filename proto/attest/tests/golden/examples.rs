//! One of everything that is signed or travels, with fixed keys and facts.

use proto::session::SamplingParams;
use proto::tensor::NumericsClass;
use proto::{ContentHash, Generation, LayerSpan, ModelId, NodeId, NodeKey, Position, SessionId};
use proto_attest::audit::{
    AuditChallenge, AuditRate, AuditSeed, EpochBatch, RowOpening, Side, SignedBatch, SignedChallenge,
};
use proto_attest::check::{Evidence, GenerationEvidence, OpenedSample};
use proto_attest::cuts::{Covered, Phase};
use proto_attest::keys::{KeyBinding, SignedBinding};
use proto_attest::open::{LaneId, OpenAck, RouteHop, SessionOpen, SignedAck, VerifiedOpen};
use proto_attest::receipt::{Draft, HopReceipt, Leaves, SamplerReceipt, SignedReceipt};
use proto_attest::recorder::SentLeaves;
use proto_attest::sample::{Sample, SamplingTerms};
use proto_attest::verdict::{AuditVerdict, Judgement, Method, Outcome, SignedVerdict};
use proto_attest::{Amount, Digest, Leaf, OperatorKey, ReceiptKey, tree};

pub(crate) const ROUTER: u8 = 9;

pub(crate) fn key(number: u8) -> ReceiptKey {
    ReceiptKey::from_bytes(&[number; 32]).unwrap()
}

pub(crate) fn operator() -> OperatorKey {
    OperatorKey::from_bytes(&[7; 32]).unwrap()
}

pub(crate) fn binding() -> KeyBinding {
    KeyBinding {
        node: NodeKey::from_seed(&[1; 32]).node_id(),
        operator: operator().address(),
        receipt: key(1).address(),
        sequence: 3,
        issued_unix_s: 1_000,
        expires_unix_s: 90_000,
    }
}

pub(crate) fn signed_binding() -> SignedBinding {
    binding().sign_with_both(&NodeKey::from_seed(&[1; 32]), &operator())
}

pub(crate) fn terms() -> SamplingTerms {
    SamplingTerms { params: SamplingParams::default(), constrained: false, salt: [6; 32] }
}

pub(crate) fn open() -> VerifiedOpen {
    let hop = |number: u8, start, end| RouteHop {
        node: NodeId::from_bytes([number; 32]),
        span: LayerSpan::new(start, end).unwrap(),
        receipt_key: key(number).address(),
        lane: LaneId::from_bytes([number + 10; 32]),
        price_prefill: Amount::new(2),
        price_decode: Amount::new(5),
        goes_on: 0,
    };
    let open = SessionOpen {
        router: NodeId::from_bytes([ROUTER; 32]),
        router_key: key(ROUTER).address(),
        session: SessionId::new(0x0102_0304_0506_0708),
        generation: Generation::new(0),
        prev: Digest::ZERO,
        model: ModelId::from_bytes([8; 32]),
        class: NumericsClass::Int8,
        n_layers: 30,
        route: vec![hop(1, 0, 10), hop(2, 10, 30)],
        prompt_rows: 40,
        forced_rows: 0,
        sampling_hash: terms().hash(),
        seed_commit: terms().seed_commit(),
        max_tokens: 64,
        opened_unix_s: 1_000,
        deadline_unix_s: 2_000,
    };
    open.sign(&key(ROUTER)).unwrap()
}

pub(crate) fn ack() -> SignedAck {
    OpenAck { open: open().digest(), hop: 1 }.sign(&key(2))
}

fn leaves(from: u8) -> Vec<Leaf> {
    (from..from + 2).map(|number| Leaf::from_bytes([number; 32])).collect()
}

pub(crate) fn sample() -> Sample {
    Sample::of_logits(Position::new(41), &[0.5, -1.25, f32::NEG_INFINITY, 3.0]).unwrap()
}

fn sample_leaves() -> Vec<Leaf> {
    let facts = open();
    let facts = facts.open();
    let hasher = Sample::hasher(facts.router, facts.session, facts.generation);
    vec![sample().leaf(&hasher), Leaf::from_bytes([5; 32])]
}

/// Two decode rows of the tail, where its generation ended.
pub(crate) fn draft() -> Draft {
    let leaves = Leaves { received: leaves(20), sent: leaves(30) };
    let receipt = HopReceipt {
        open: open().digest(),
        hop: 1,
        phase: Phase::Decode,
        rows: Covered { start: 40, sent_start: 40, end: 42 },
        in_root: tree::root(&leaves.received),
        out_root: tree::root(&leaves.sent),
        exec_build: Digest::from_bytes([3; 32]),
        prev: Digest::from_bytes([4; 32]),
        price_due: Amount::new(90),
        epoch: 5,
    };
    let samples_root = tree::root(&sample_leaves());
    let sampler = SamplerReceipt { seed_index: 41, tokens: vec![3, 1], samples_root };
    Draft { digest: receipt.digest(open().open()), receipt, sampler: Some(sampler), leaves }
}

/// One full decode window of hop 0.
pub(crate) fn plain_receipt() -> SignedReceipt {
    let receipt = HopReceipt {
        hop: 0,
        rows: Covered { start: 40, sent_start: 40, end: 72 },
        price_due: Amount::new(240),
        ..draft().receipt
    };
    let digest = receipt.digest(open().open());
    Draft { receipt, digest, sampler: None, leaves: Leaves::default() }.sign(&key(1))
}

pub(crate) fn tail_receipt() -> SignedReceipt {
    draft().sign(&key(2))
}

pub(crate) fn sent_leaves() -> SentLeaves {
    SentLeaves { receipt: plain_receipt().receipt.digest(open().open()), leaves: leaves(40) }
}

pub(crate) fn batch() -> SignedBatch {
    let batch = EpochBatch {
        node: NodeId::from_bytes([2; 32]),
        epoch: 5,
        receipts_root: EpochBatch::root(&[draft().digest, Digest::from_bytes([4; 32])]),
        count: 2,
        earned: Amount::new(90),
    };
    batch.sign(&key(2))
}

pub(crate) fn challenge() -> SignedChallenge {
    let challenge = AuditChallenge {
        auditor: key(6).address(),
        batch: batch().batch.digest(),
        seed: AuditSeed::from_bytes([11; 32]),
        rate: AuditRate::new(1 << 28),
        deadline_unix_s: 5_000,
    };
    challenge.sign(&key(6)).unwrap()
}

pub(crate) fn verdict() -> SignedVerdict {
    let (method, outcome) = (Method::ChunkDelta, Outcome::Fail);
    let verdict = AuditVerdict {
        challenge: challenge().challenge.digest(),
        receipt: draft().digest,
        node: NodeId::from_bytes([2; 32]),
        receipt_key: key(2).address(),
        judgement: Judgement { method, outcome, statistic: 0.25, threshold: 0.01, count: 1 },
        calibration: ContentHash::from_bytes([12; 32]),
        exec_build: Digest::from_bytes([13; 32]),
        device: "cpu avx512".into(),
        auditor: key(6).address(),
        judged_unix_s: 4_000,
    };
    verdict.sign(&key(6)).unwrap()
}

pub(crate) fn row_opening() -> RowOpening {
    RowOpening {
        receipt: draft().digest,
        side: Side::Sent,
        position: 41,
        row: vec![1, 2, 3, 4],
        path: vec![Digest::from_bytes([14; 32])],
    }
}

pub(crate) fn evidence() -> Evidence {
    let path = tree::prove(&sample_leaves(), 0).unwrap();
    Evidence {
        presenter: key(ROUTER).address(),
        bindings: vec![signed_binding()],
        tokens: (0..43).collect(),
        terms: Some(terms()),
        vocab_size: 4,
        generations: vec![GenerationEvidence {
            open: open().signed().clone(),
            acks: vec![ack()],
            receipts: vec![plain_receipt(), tail_receipt()],
            samples: vec![OpenedSample { sample: sample(), path }],
        }],
    }
}
