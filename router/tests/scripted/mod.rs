//! Nodes that do what a test tells them to: real endpoints, scripted answers.

// Each test binary uses a part of it.
#![expect(dead_code, reason = "shared by several test binaries")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proto::session::{
    Close, Credit, Ended, Finish, Open, Opened, Plan, PlanStage, Progress, Refused, Sampled, SamplingParams,
    Tokens,
};
use proto::status::{BlobStart, Fetch, NodeStatus, NotFound, Refusal};
use proto::tensor::NumericsClass;
use proto::{
    Added, ContentHash, FrameKind, Generation, LayerSpan, Message, ModelId, NodeId, NodeKey, Position,
    SessionId,
};
use proto_telemetry::Registry;
use proto_transport::testing::Faults;
use proto_transport::{Connection, Endpoint, EndpointConfig, FrameReceiver, FrameSender};
use router::driver::Driver;
use router::metrics::RouterMetrics;
use router::session::{SessionLimits, SessionShare, SessionTerms};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Longer than anything here takes, shorter than a test runner's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a node does with `Open`.
#[derive(Clone, Debug)]
pub(crate) enum OnOpen {
    Accept,
    Refuse(Refusal),
    LieAboutDigest,
    Ignore,
}

/// What a node heard.
#[derive(Debug)]
pub(crate) enum Heard {
    Open(Box<Open>),
    Tokens(Tokens),
    Credit(Credit),
    Close(Close),
}

/// One scripted node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) faults: Faults,
    pub(crate) endpoint: Endpoint,
    heard: mpsc::Receiver<Heard>,
    /// Connections that a router opened, newest last.
    connections: Arc<Mutex<Vec<Connection>>>,
    reports: Option<FrameSender>,
    _tasks: JoinSet<()>,
}

impl Node {
    pub(crate) fn start(number: u8, on_open: OnOpen) -> Self {
        Self::with_blobs(number, on_open, Vec::new())
    }

    /// `blobs` are served under the given hashes, whatever their real ones are.
    pub(crate) fn with_blobs(number: u8, on_open: OnOpen, blobs: Vec<(ContentHash, Vec<u8>)>) -> Self {
        let faults = Faults::new(u64::from(number));
        let config = EndpointConfig::new(NodeKey::from_seed(&[number; 32]), ([127, 0, 0, 1], 0).into());
        let endpoint = Endpoint::bind(config.with_faults(&faults)).unwrap();
        let (heard_in, heard) = mpsc::channel(1024);
        let connections = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let serve = Serve { on_open, heard: heard_in, blobs: Arc::new(blobs.into_iter().collect()) };
        let (accepting, known) = (endpoint.clone(), Arc::clone(&connections));
        tasks.spawn(async move {
            let mut tasks = JoinSet::new();
            while let Some(connection) = accepting.accept().await {
                known.lock().unwrap().push(connection.clone());
                tasks.spawn(serve.clone().requests(connection.clone()));
                tasks.spawn(serve.clone().control(connection));
            }
        });
        Self {
            id: endpoint.node_id(),
            addr: endpoint.local_addr(),
            faults,
            endpoint,
            heard,
            connections,
            reports: None,
            _tasks: tasks,
        }
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        timeout(PATIENCE, self.heard.recv()).await.expect("the router should say something").unwrap()
    }

    pub(crate) async fn hear_open(&mut self) -> Open {
        loop {
            if let Heard::Open(open) = self.hear().await {
                return *open;
            }
        }
    }

    pub(crate) async fn hear_tokens(&mut self) -> Tokens {
        loop {
            if let Heard::Tokens(tokens) = self.hear().await {
                return tokens;
            }
        }
    }

    pub(crate) async fn hear_credit(&mut self) -> Credit {
        loop {
            if let Heard::Credit(credit) = self.hear().await {
                return credit;
            }
        }
    }

    pub(crate) async fn hear_close(&mut self) -> Close {
        loop {
            if let Heard::Close(close) = self.hear().await {
                return close;
            }
        }
    }

    /// What has been heard by now.
    pub(crate) fn heard_already(&mut self) -> Vec<Heard> {
        std::iter::from_fn(|| self.heard.try_recv().ok()).collect()
    }

    pub(crate) async fn report<M: Message>(&mut self, message: &M) {
        self.report_raw(M::KIND, message.encode()).await;
    }

    pub(crate) async fn report_raw(&mut self, kind: FrameKind, body: Bytes) {
        if self.reports.is_none() {
            let connection = self.connections.lock().unwrap().last().cloned().expect("a router has dialled");
            self.reports = Some(connection.open_uni().await.unwrap());
        }
        // The router may have closed the connection, which is then what the test is about.
        let _ = self.reports.as_mut().unwrap().send(kind, body).await;
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.connections.lock().unwrap().len()
    }
}

#[derive(Clone)]
struct Serve {
    on_open: OnOpen,
    heard: mpsc::Sender<Heard>,
    blobs: Arc<HashMap<ContentHash, Vec<u8>>>,
}

impl Serve {
    async fn requests(self, connection: Connection) {
        let mut tasks = JoinSet::new();
        while let Ok((sender, receiver)) = connection.accept_bi().await {
            tasks.spawn(self.clone().answer(sender, receiver));
        }
    }

    async fn answer(self, mut sender: FrameSender, mut receiver: FrameReceiver) {
        let Ok(Some(frame)) = receiver.recv().await else { return };
        match frame.kind {
            FrameKind::Open => {
                let open: Open = frame.decode().unwrap();
                self.heard.send(Heard::Open(Box::new(open.clone()))).await.unwrap();
                let digest = match &self.on_open {
                    OnOpen::Accept => open.plan.digest(),
                    OnOpen::LieAboutDigest => ContentHash::of(b"another plan"),
                    OnOpen::Refuse(refusal) => {
                        let refused = Refused { session: open.session, refusal: refusal.clone() };
                        sender.send_message(&refused).await.unwrap();
                        return sender.finish();
                    }
                    OnOpen::Ignore => return std::future::pending().await,
                };
                let opened =
                    Opened { session: open.session, generation: open.generation, digest, reusable: Added(0) };
                sender.send_message(&opened).await.unwrap();
            }
            FrameKind::StatusRequest => {
                let status = NodeStatus {
                    sessions: 0,
                    kv_reserved: 0,
                    kv_capacity: 4096,
                    step_us: 0,
                    draining: false,
                };
                sender.send_message(&status).await.unwrap();
            }
            FrameKind::Fetch => {
                let fetch: Fetch = frame.decode().unwrap();
                let Some(blob) = self.blobs.get(&fetch.hash) else {
                    sender.send_message(&NotFound).await.unwrap();
                    return sender.finish();
                };
                sender.send_message(&BlobStart { bytes: blob.len() as u64 }).await.unwrap();
                for part in blob.chunks(1000) {
                    sender.send(FrameKind::BlobPart, Bytes::copy_from_slice(part)).await.unwrap();
                }
            }
            other => panic!("unexpected request {other}"),
        }
        sender.finish();
    }

    async fn control(self, connection: Connection) {
        while let Ok(mut stream) = connection.accept_uni().await {
            while let Ok(Some(frame)) = stream.recv().await {
                let heard = match frame.kind {
                    FrameKind::Tokens => Heard::Tokens(frame.decode().unwrap()),
                    FrameKind::Credit => Heard::Credit(frame.decode().unwrap()),
                    FrameKind::Close => Heard::Close(frame.decode().unwrap()),
                    other => panic!("unexpected control frame {other}"),
                };
                if self.heard.send(heard).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A driver on an endpoint of its own.
pub(crate) fn driver() -> Driver {
    let mut config = EndpointConfig::new(NodeKey::from_seed(&[200; 32]), ([127, 0, 0, 1], 0).into());
    config.accept = false;
    let metrics = RouterMetrics::register(&Registry::new()).unwrap();
    Driver::new(Endpoint::bind(config).unwrap(), metrics)
}

/// A plan over these nodes, in order.
pub(crate) fn plan(nodes: &[&Node]) -> Plan {
    let spans = LayerSpan::split_evenly(30, nodes.len() as u32).unwrap();
    let stages = nodes
        .iter()
        .zip(spans)
        .map(|(node, span)| PlanStage { node: node.id, addr: node.addr, span })
        .collect();
    Plan { model: ModelId::from_bytes([3; 32]), class: NumericsClass::Exact, n_layers: 30, stages }
}

/// Three tokens of prompt, at most eight of answer.
pub(crate) fn terms(session: u64, plan: Plan) -> SessionTerms {
    SessionTerms {
        answer: proto::answer::AnswerTerms::default(),
        session: SessionId::new(session),
        generation: Generation::new(1),
        plan,
        prompt: [5, 6, 7].into(),
        generated: 0,
        since: Generation::new(0),
        max_tokens: 8,
        max_positions: 11,
        vocab: 100,
        eos: vec![2],
        sampling: SamplingParams::default(),
        credit: 4,
        limits: SessionLimits::default(),
        share: SessionShare::default(),
        standbys: Vec::new(),
        evidence: None,
    }
}

pub(crate) fn sampled(session: u64, position: u32, token: u32) -> Sampled {
    Sampled {
        session: SessionId::new(session),
        generation: Generation::new(1),
        position: Position::new(position),
        token,
        logprob: -1.0,
        margin: 1.0,
        finish: Finish::No,
        top: Added::default(),
    }
}

pub(crate) fn progress(session: u64, applied: u32) -> Progress {
    Progress {
        session: SessionId::new(session),
        generation: Generation::new(1),
        applied: Position::new(applied),
        step_us: 500,
    }
}

pub(crate) fn ended(session: u64) -> Ended {
    Ended {
        session: SessionId::new(session),
        generation: Generation::new(1),
        decode_steps: 2,
        prefill_rows: 3,
        decode_us: 700,
        prefill_us: 900,
        hop_us: 50,
        decode_bytes: 200,
        waste_rows: 0,
        skipped_rows: Added(0),
    }
}
