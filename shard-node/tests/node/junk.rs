//! Peers that break the protocol, by mistake or on purpose: they lose their connection, and nobody else anything.

use crate::support::{Asked, PATIENCE, Swarm, TestRouter, key, loopback, wait_for_status};
use bytes::{Bytes, BytesMut};
use proto::activation::{Activations, RowGroup};
use proto::handshake::ConnectionClass;
use proto::session::{Close, Credit, Plan, PlanStage, Sampled, Tokens};
use proto::status::CloseCode;
use proto::tensor::WireDtype;
use proto::{Added, FrameKind, Generation, LayerSpan, Message, Position, SessionId};
use proto_transport::{Closed, Connection, Endpoint, EndpointConfig, Target};
use shard_node_stage::{Stage, StepGroup, StepInput, StepOutput, ToyModel, ToyStage};

const MODEL: ToyModel = ToyModel::new(6);

async fn dial(swarm: &Swarm, endpoint: &Endpoint, node: usize, class: ConnectionClass) -> Connection {
    let ready = swarm.nodes[node].ready();
    endpoint.connect(Target::node(ready.node, ready.listen), class).await.unwrap()
}

async fn assert_closed_for_protocol(connection: &Connection, what: &str) {
    match tokio::time::timeout(PATIENCE, connection.closed()).await {
        Ok(Closed::ByPeer { code: CloseCode::Protocol, .. }) => {}
        other => panic!("{what}: {other:?}"),
    }
}

fn rows(hidden: u32, dtype: WireDtype) -> Activations {
    let group = RowGroup {
        session: SessionId::new(1),
        generation: Generation::new(0),
        start: Position::new(0),
        rows: 1,
        sample: false,
        prefill: true,
    };
    let rows = Bytes::from(vec![0; hidden as usize * dtype.bytes()]);
    Activations { dtype, hidden, sent_unix_ns: 0, groups: vec![group], rows }
}

fn credit() -> Credit {
    Credit { session: SessionId::new(1), generation: Generation::new(0), run_until: Position::new(1) }
}

/// One frame of each kind on each kind of stream of each class.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_where_it_does_not_belong_costs_the_connection() {
    let swarm = Swarm::start(MODEL, 2).await;
    let router = TestRouter::new(100);
    for class in ConnectionClass::ALL {
        for &kind in FrameKind::ALL {
            let junk = Bytes::from_static(&[0xab; 77]);
            if class != ConnectionClass::Discovery {
                // Discovery connections have no such streams: the transport does not let us open one.
                let connection = dial(&swarm, &router.endpoint, 0, class).await;
                let mut stream = connection.open_uni().await.unwrap();
                stream.send(kind, junk.clone()).await.unwrap();
                assert_closed_for_protocol(&connection, &format!("{kind} alone on a {class} stream")).await;
            }
            let connection = dial(&swarm, &router.endpoint, 0, class).await;
            let mut answer = connection.call(kind, junk).await.unwrap();
            assert!(!matches!(answer.recv().await, Ok(Some(_))), "{kind} as a {class} request");
            assert_closed_for_protocol(&connection, &format!("{kind} as a {class} request")).await;
        }
    }
    let metrics = swarm.nodes[0].metrics_text();
    let expected = FrameKind::ALL.len() * 5;
    assert!(metrics.contains(&format!("shard_node_protocol_errors_total {expected}")), "{metrics}");
    serves(&swarm).await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_to_its_kind() {
    let swarm = Swarm::start(MODEL, 2).await;
    let router = TestRouter::new(100);
    let sampled = Sampled {
        session: SessionId::new(1),
        generation: Generation::new(0),
        position: Position::new(1),
        token: 0,
        logprob: 0.0,
        margin: 0.0,
        finish: proto::session::Finish::No,
        top: Added::default(),
    };
    let good = [
        (FrameKind::Credit, credit().encode()),
        (FrameKind::Sampled, sampled.encode()),
        (FrameKind::Activations, rows(8, WireDtype::F32).encode()),
    ];
    for (first, body) in &good {
        for (second, other) in &good {
            let connection = dial(&swarm, &router.endpoint, 0, ConnectionClass::Interactive).await;
            let mut stream = connection.open_uni().await.unwrap();
            stream.send(*first, body.clone()).await.unwrap();
            stream.send(*second, other.clone()).await.unwrap();
            if first == second {
                assert_eq!(
                    crate::support::remote_status(&connection).await.sessions,
                    0,
                    "{first} twice is fine"
                );
            } else {
                assert_closed_for_protocol(&connection, &format!("{second} after {first}")).await;
            }
        }
    }
    for frame in [rows(9, WireDtype::F32), rows(8, WireDtype::Bf16)] {
        let connection = dial(&swarm, &router.endpoint, 0, ConnectionClass::Bulk).await;
        connection.open_uni().await.unwrap().send_message(&frame).await.unwrap();
        assert_closed_for_protocol(&connection, "rows of another width or type").await;
    }
    swarm.shutdown().await;
}

/// Valid frames with bytes changed, cut or added, at a node that is serving somebody else meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_frames_disturb_nobody_and_leave_nothing() {
    let seed = 0x5eed_0007_u64;
    println!("seed {seed:#x}");
    let swarm = Swarm::start(MODEL, 2).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let honest = Asked::new(77, &[1, 2, 3], 3_000);
    router.start(&plan, &honest).await;

    let hostile = TestRouter::new(101);
    let asked = Asked::new(1, &[1, 2], 4);
    let open = |stage| asked.open(&plan, stage).encode();
    let tokens = Tokens {
        session: SessionId::new(1),
        generation: Generation::new(0),
        start: Position::new(0),
        tokens: vec![1, 2],
    };
    let close =
        Close { session: SessionId::new(1), generation: Generation::new(0), code: CloseCode::Cancelled };
    let uni = [
        (FrameKind::Tokens, tokens.encode()),
        (FrameKind::Credit, credit().encode()),
        (FrameKind::Close, close.encode()),
        (FrameKind::Activations, rows(8, WireDtype::F32).encode()),
    ];
    let mut random = Random(seed);
    let mut connection = dial(&swarm, &hostile.endpoint, 1, ConnectionClass::Interactive).await;
    for round in 0..2_500_u32 {
        if connection.close_reason().is_some() {
            connection = dial(&swarm, &hostile.endpoint, 1, ConnectionClass::Interactive).await;
        }
        // What was lost with a connection that the node closed is no failure of the test.
        if round % 5 == 0 {
            let stage = random.below(2);
            let body = random.mutate(&open(stage));
            let _ = connection.request(FrameKind::Open, body, PATIENCE).await;
        } else {
            let (kind, body) = &uni[random.below(uni.len())];
            if let Ok(mut stream) = connection.open_uni().await {
                let _ = stream.send(*kind, random.mutate(body)).await;
            }
        }
    }
    hostile.leave().await;
    assert_eq!(router.tokens(77, usize::MAX).await, MODEL.answer(&honest.prompt, 3_000));
    router.close(&plan, &honest, CloseCode::Finished).await;
    for node in &swarm.nodes {
        wait_for_status(node, "nothing is left", |s| s.sessions == 0 && s.kv_reserved == 0).await;
    }
    swarm.shutdown().await;
}

/// A stage 0 written here sends each frame twice and old ones again; the real tail applies each row once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubled_and_stale_frames_are_applied_once() {
    let tail = tail_of_two().await;
    let endpoint = Endpoint::bind(EndpointConfig::new(key(50), loopback())).unwrap();
    let own = PlanStage {
        node: key(50).node_id(),
        addr: endpoint.local_addr(),
        span: LayerSpan::new(0, 3).unwrap(),
    };
    let plan = Plan { stages: vec![own, tail.plan().stages[0]], ..tail.plan() };

    let mut router = TestRouter::new(100);
    let asked = Asked::new(1, &[5, 6, 7], 8);
    let ready = tail.nodes[0].ready();
    let peer = router.peer(ready.node, ready.listen).await;
    let answer =
        peer.connection.request(FrameKind::Open, asked.open(&plan, 1).encode(), PATIENCE).await.unwrap();
    assert_eq!(answer.kind, FrameKind::Opened);
    let back = endpoint.accept().await.unwrap();
    let target = Target::node(ready.node, ready.listen);
    let hop = endpoint.connect(target, ConnectionClass::Interactive).await.unwrap();
    let mut hop = hop.open_uni().await.unwrap();

    let mut stage = ToyStage::new(MODEL, own.span);
    let slot = stage.open(16).unwrap();
    let mut sent: Vec<Activations> = Vec::new();
    let (mut next, mut at, mut got) = (asked.prompt.clone(), 0, Vec::new());
    let mut returned = None;
    while got.len() < 8 {
        let rows = next.len() as u32;
        let step = StepGroup { slot, start: Position::new(at), rows, sample: false };
        let StepOutput::Activations(bytes) = stage.step(&[step], StepInput::Tokens(next)).unwrap() else {
            panic!("a first stage")
        };
        let group = RowGroup {
            session: SessionId::new(1),
            generation: Generation::new(0),
            start: Position::new(at),
            rows,
            sample: true,
            prefill: at == 0,
        };
        at += rows;
        let frame = Activations {
            dtype: WireDtype::F32,
            hidden: 8,
            sent_unix_ns: 0,
            groups: vec![group],
            rows: bytes,
        };
        sent.push(frame);
        let mut stale = sent[0].clone();
        stale.groups[0].generation = Generation::new(9);
        stale.groups[0].session = SessionId::new(2);
        for frame in sent.iter().chain(sent.last()).chain([&stale]) {
            hop.send_message(frame).await.unwrap();
        }
        if returned.is_none() {
            returned = Some(back.accept_uni().await.unwrap());
        }
        let returned = returned.as_mut().unwrap();
        let sampled: Sampled = returned.recv_message().await.unwrap().unwrap().unwrap();
        assert_eq!(sampled.position, Position::new(at), "each token once");
        got.push(sampled.token);
        next = vec![sampled.token];
    }
    assert_eq!(got, MODEL.answer(&asked.prompt, 8));
    assert_eq!(router.tokens(1, usize::MAX).await, got);
    tail.shutdown().await;
}

/// A real node that holds the second half of the model.
async fn tail_of_two() -> Swarm {
    let mut both = Swarm::start(MODEL, 2).await;
    both.nodes.remove(0).stop_now().await;
    both
}

async fn serves(swarm: &Swarm) {
    let mut router = TestRouter::new(110);
    let plan = swarm.plan();
    let asked = Asked::new(1_000, &[4, 5], 6);
    router.start(&plan, &asked).await;
    assert_eq!(router.tokens(1_000, usize::MAX).await, MODEL.answer(&asked.prompt, 6));
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn mutate(&mut self, body: &Bytes) -> Bytes {
        let mut body = BytesMut::from(&body[..]);
        for _ in 0..=self.below(3) {
            match self.below(4) {
                0 => body.truncate(self.below(body.len() + 1)),
                1 => body.extend_from_slice(&self.next().to_le_bytes()),
                _ if body.is_empty() => {}
                _ => {
                    let at = self.below(body.len());
                    body[at] = self.next() as u8;
                }
            }
        }
        body.freeze()
    }
}
