//! One fixed example of every frame kind, shared by the golden and the mutation tests.

use bytes::Bytes;
use proto::activation::{Activations, RowGroup};
use proto::answer::{AnswerTerms, Grammar};
use proto::attest::{Acknowledged, Attest, Keys, KeysRequest, Receipt, SentRows};
use proto::audit::{AuditBatch, AuditRequest, Challenge, Challenged, OpenRows};
use proto::discovery::{
    Contact, Contacts, FindNode, FindValue, Ping, Pong, Store, StoreOutcome, Stored, Values,
};
use proto::prefix::{TenantId, block_hashes};
use proto::record::{DhtKey, NodeRecord, ShardOffer, SignedRecord};
use proto::session::{
    Close, Credit, Ended, Failed, Finish, Follow, Further, Open, Opened, Plan, PlanStage, Priority, Progress,
    Refused, ResumeTerms, Role, Sampled, SamplingParams, Service, TailTerms, Tokens,
};
use proto::status::{BlobStart, CloseCode, Fetch, NodeStatus, NotFound, Refusal, RefusalCode, StatusRequest};
use proto::tensor::{NumericsClass, WireDtype};
use proto::{
    Added, ContentHash, DecodeError, FrameKind, Generation, LayerSpan, Message, ModelId, NodeId, NodeKey,
    Position, SessionId,
};

const SESSION: SessionId = SessionId::new(0x1122_3344_5566_7788);
const GENERATION: Generation = Generation::new(3);
const POSITION: Position = Position::new(42);

/// A signed record made from fixed keys and times.
pub(crate) fn record() -> SignedRecord {
    let key = NodeKey::from_seed(&[9; 32]);
    NodeRecord {
        node: key.node_id(),
        addresses: vec!["192.0.2.7:7401".parse().unwrap(), "[2001:db8::7]:7401".parse().unwrap()],
        offer: Some(ShardOffer {
            model: ModelId::from_bytes([5; 32]),
            model_name: "smollm2-135m-instruct".into(),
            n_layers: 30,
            span: LayerSpan::new(10, 20).unwrap(),
            class: NumericsClass::Bf16,
            kv_capacity: 65_536,
        }),
        version: "0.1.0".into(),
        sequence: 1_700_000_000_000,
        issued_unix_s: 1_700_000_000,
        lease_s: 900,
        withdrawn: false,
    }
    .sign(&key)
    .unwrap()
}

fn plan() -> Plan {
    let stage = |id: u8, port: u16, start, end| PlanStage {
        node: NodeId::from_bytes([id; 32]),
        addr: format!("192.0.2.{id}:{port}").parse().unwrap(),
        span: LayerSpan::new(start, end).unwrap(),
    };
    Plan {
        model: ModelId::from_bytes([5; 32]),
        class: NumericsClass::Exact,
        n_layers: 30,
        stages: vec![stage(1, 7401, 0, 15), stage(2, 7401, 15, 30)],
    }
}

fn contact() -> Contact {
    Contact { node: NodeId::from_bytes([4; 32]), addr: "192.0.2.4:7401".parse().unwrap() }
}

/// A row group of the example's session.
pub(crate) fn group(start: u32, rows: u32, sample: bool) -> RowGroup {
    RowGroup {
        session: SESSION,
        generation: GENERATION,
        start: Position::new(start),
        rows,
        sample,
        prefill: !sample,
    }
}

/// Bodies with all the fields that a kind gained later, by the name of their golden file.
pub(crate) fn extended() -> Vec<(&'static str, FrameKind, Bytes)> {
    fn of<M: Message>(kind: FrameKind, change: impl FnOnce(&mut M)) -> (FrameKind, Bytes) {
        let mut message = M::decode(&body(kind)).unwrap();
        change(&mut message);
        (kind, message.encode())
    }
    let service = Service {
        tenant: TenantId::from_bytes([8; 16]),
        priority: Priority::High,
        deadline_ms: 60_000,
        prefix: block_hashes(&TenantId::from_bytes([8; 16]), &[7; 130]),
        further: Added::default(),
    };
    let answer =
        AnswerTerms { top_logprobs: 2, grammar: Some(Grammar::JsonSchema(r#"{"type":"object"}"#.into())) };
    let further = |answer, resume| Added(Further { answer, resume: Added(resume) });
    let shaped = Service { further: further(answer, ResumeTerms::default()), ..Service::default() };
    let resume = ResumeTerms { rows: 200, downstream: 180, since: 2, role: Added::default() };
    let role = |standby, attested| Added(Role { standby, attested: Added(attested) });
    let standby = ResumeTerms { role: role(true, false), ..resume };
    let attested = ResumeTerms { role: role(false, true), ..ResumeTerms::default() };
    let resumed = Service { further: further(AnswerTerms::default(), resume), ..Service::default() };
    let signed_for = Service { further: further(AnswerTerms::default(), attested), ..Service::default() };
    let stands_by = Service { further: further(AnswerTerms::default(), standby), ..Service::default() };
    let named = |name, (kind, body)| (name, kind, body);
    vec![
        named("Open.service", of(FrameKind::Open, |open: &mut Open| open.service = Added(service))),
        named("Open.answer", of(FrameKind::Open, |open: &mut Open| open.service = Added(shaped))),
        named("Open.resume", of(FrameKind::Open, |open: &mut Open| open.service = Added(resumed))),
        named("Open.attested", of(FrameKind::Open, |open: &mut Open| open.service = Added(signed_for))),
        named(
            "Open.standby",
            of(FrameKind::Open, |open: &mut Open| (open.service, open.tail) = (Added(stands_by), None)),
        ),
        named(
            "Sampled.top",
            of(FrameKind::Sampled, |sampled: &mut Sampled| {
                sampled.top = Added(vec![(253, -0.25), (7, -2.5)]);
            }),
        ),
        named("Opened.reusable", of(FrameKind::Opened, |opened: &mut Opened| opened.reusable = Added(128))),
        named(
            "Refused.retry",
            of(FrameKind::Refused, |refused: &mut Refused| refused.refusal.retry_after_ms = Added(750)),
        ),
        named("Ended.skipped", of(FrameKind::Ended, |ended: &mut Ended| ended.skipped_rows = Added(128))),
    ]
}

/// The body of the example of `kind`.
pub(crate) fn body(kind: FrameKind) -> Bytes {
    let (session, generation) = (SESSION, GENERATION);
    let key = DhtKey::from_bytes([6; 32]);
    let listen_port = Some(7401);
    match kind {
        FrameKind::Open => Open {
            session,
            generation,
            plan: plan(),
            stage: 1,
            max_positions: 2048,
            lease_ms: 10_000,
            tail: Some(TailTerms {
                history: vec![1, 2, 3],
                generated: 1,
                sampling: SamplingParams {
                    logit_bias: vec![(7, -1.5)],
                    seed: 11,
                    ..SamplingParams::default()
                },
                eos: vec![2],
                max_tokens: 64,
            }),
            service: Added::default(),
        }
        .encode(),
        FrameKind::Opened => {
            Opened { session, generation, digest: plan().digest(), reusable: Added(0) }.encode()
        }
        FrameKind::Refused => {
            Refused { session, refusal: Refusal::new(RefusalCode::NoCapacity, "0 of 4096 positions free") }
                .encode()
        }
        FrameKind::Tokens => {
            Tokens { session, generation, start: Position::new(0), tokens: vec![1, 49_151, 7] }.encode()
        }
        FrameKind::Credit => Credit { session, generation, run_until: POSITION }.encode(),
        FrameKind::Close => Close { session, generation, code: CloseCode::Finished }.encode(),
        FrameKind::Follow => {
            Follow { session, generation, standby: plan().stages[1], from: POSITION }.encode()
        }
        FrameKind::Attest => {
            let (binding, open, salt) = (vec![1; 225], vec![2; 600], Some([3; 32]));
            Attest { session, generation, binding, open, salt }.encode()
        }
        FrameKind::Acknowledged => Acknowledged { session, generation, ack: vec![4; 99] }.encode(),
        FrameKind::Receipt => Receipt { session, generation, receipt: vec![5; 232] }.encode(),
        FrameKind::SentRows => SentRows { session, generation, leaves: vec![6; 36 + 32] }.encode(),
        FrameKind::KeysRequest => KeysRequest.encode(),
        FrameKind::Keys => Keys { binding: vec![7; 225] }.encode(),
        FrameKind::AuditRequest => AuditRequest { commit: [8; 32], epoch: 500_000 }.encode(),
        FrameKind::AuditBatch => {
            AuditBatch { batch: vec![9; 157], receipts: vec![[10; 32], [11; 32]] }.encode()
        }
        FrameKind::Challenge => Challenge { epoch: 500_000, challenge: vec![12; 161] }.encode(),
        FrameKind::Challenged => Challenged { refusal: "another seed".into() }.encode(),
        FrameKind::OpenRows => OpenRows { receipt: [10; 32], side: 1, open: [13; 32] }.encode(),
        FrameKind::Sampled => Sampled {
            session,
            generation,
            position: POSITION,
            token: 253,
            logprob: -0.25,
            margin: 1.5,
            finish: Finish::Eos,
            top: Added::default(),
        }
        .encode(),
        FrameKind::Progress => Progress { session, generation, applied: POSITION, step_us: 1_234 }.encode(),
        FrameKind::Failed => Failed {
            session,
            generation,
            code: CloseCode::HopLost,
            lost: Some(NodeId::from_bytes([2; 32])),
            detail: "idle for 1 s".into(),
        }
        .encode(),
        FrameKind::Ended => Ended {
            session,
            generation,
            decode_steps: 10,
            prefill_rows: 20,
            decode_us: 3_000,
            prefill_us: 40_000,
            hop_us: 120,
            decode_bytes: 11_520,
            waste_rows: 1,
            skipped_rows: Added(0),
        }
        .encode(),
        FrameKind::Activations => Activations {
            dtype: WireDtype::Bf16,
            hidden: 4,
            sent_unix_ns: 1_700_000_000_000_000_000,
            groups: vec![group(0, 2, false), group(42, 1, true)],
            rows: Bytes::from((0u8..24).collect::<Vec<_>>()),
        }
        .encode(),
        FrameKind::Fetch => Fetch { hash: ContentHash::of(b"manifest") }.encode(),
        FrameKind::BlobStart => BlobStart { bytes: 3 }.encode(),
        FrameKind::BlobPart => Bytes::from_static(b"abc"),
        FrameKind::NotFound => NotFound.encode(),
        FrameKind::StatusRequest => StatusRequest.encode(),
        FrameKind::NodeStatus => {
            NodeStatus { sessions: 2, kv_reserved: 4_096, kv_capacity: 65_536, step_us: 900, draining: false }
                .encode()
        }
        FrameKind::Ping => Ping { listen_port }.encode(),
        FrameKind::Pong => Pong { observed: "198.51.100.1:50000".parse().unwrap() }.encode(),
        FrameKind::FindNode => FindNode { target: key, listen_port: None }.encode(),
        FrameKind::Contacts => Contacts { contacts: vec![contact()] }.encode(),
        FrameKind::FindValue => {
            FindValue { key, after: Some(NodeId::from_bytes([3; 32])), listen_port }.encode()
        }
        FrameKind::Values => {
            Values { records: vec![record()], more: true, contacts: vec![contact()] }.encode()
        }
        FrameKind::Store => Store { key, record: record(), listen_port }.encode(),
        FrameKind::Stored => Stored { outcome: StoreOutcome::Kept }.encode(),
    }
}

/// Decodes a body of `kind` and encodes it again.
pub(crate) fn round_trip(kind: FrameKind, body: &Bytes) -> Result<Bytes, DecodeError> {
    fn again<M: Message>(body: &Bytes) -> Result<Bytes, DecodeError> {
        M::decode(body).map(|message| message.encode())
    }
    match kind {
        FrameKind::Open => again::<Open>(body),
        FrameKind::Opened => again::<Opened>(body),
        FrameKind::Refused => again::<Refused>(body),
        FrameKind::Tokens => again::<Tokens>(body),
        FrameKind::Credit => again::<Credit>(body),
        FrameKind::Close => again::<Close>(body),
        FrameKind::Follow => again::<Follow>(body),
        FrameKind::Attest => again::<Attest>(body),
        FrameKind::Acknowledged => again::<Acknowledged>(body),
        FrameKind::Receipt => again::<Receipt>(body),
        FrameKind::SentRows => again::<SentRows>(body),
        FrameKind::KeysRequest => again::<KeysRequest>(body),
        FrameKind::Keys => again::<Keys>(body),
        FrameKind::AuditRequest => again::<AuditRequest>(body),
        FrameKind::AuditBatch => again::<AuditBatch>(body),
        FrameKind::Challenge => again::<Challenge>(body),
        FrameKind::Challenged => again::<Challenged>(body),
        FrameKind::OpenRows => again::<OpenRows>(body),
        FrameKind::Sampled => again::<Sampled>(body),
        FrameKind::Progress => again::<Progress>(body),
        FrameKind::Failed => again::<Failed>(body),
        FrameKind::Ended => again::<Ended>(body),
        FrameKind::Activations => again::<Activations>(body),
        FrameKind::Fetch => again::<Fetch>(body),
        FrameKind::BlobStart => again::<BlobStart>(body),
        FrameKind::BlobPart => Ok(body.clone()),
        FrameKind::NotFound => again::<NotFound>(body),
        FrameKind::StatusRequest => again::<StatusRequest>(body),
        FrameKind::NodeStatus => again::<NodeStatus>(body),
        FrameKind::Ping => again::<Ping>(body),
        FrameKind::Pong => again::<Pong>(body),
        FrameKind::FindNode => again::<FindNode>(body),
        FrameKind::Contacts => again::<Contacts>(body),
        FrameKind::FindValue => again::<FindValue>(body),
        FrameKind::Values => again::<Values>(body),
        FrameKind::Store => again::<Store>(body),
        FrameKind::Stored => again::<Stored>(body),
    }
}
