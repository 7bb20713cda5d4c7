//! Nodes with toy stages in this process, over real QUIC on loopback, and a minimal router to drive them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use kademlia_dht::StaticDirectory;
use proto::handshake::ConnectionClass;
use proto::session::{
    Close, Credit, Ended, Failed, Finish, Open, Opened, Plan, PlanStage, Progress, Refused, Sampled,
    SamplingParams, TailTerms, Tokens,
};
use proto::status::{CloseCode, NodeStatus, Refusal, StatusRequest};
use proto::tensor::NumericsClass;
use proto::{Added, FrameKind, Generation, LayerSpan, Message, NodeId, NodeKey, Position, SessionId};
use proto_transport::{Connection, Endpoint, EndpointConfig, FrameSender, RawFrame, Target};
use shard_node::discovery::Discovery;
use shard_node::node::{Node, NodeConfig, ServedModel};
use shard_node_stage::{StepHook, ToyModel, ToyStage};
use tokio::sync::mpsc;

/// Longer than anything here takes on a busy machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const LEASE_MS: u32 = 2_000;

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn key(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

pub(crate) fn served() -> ServedModel {
    ServedModel {
        name: "toy".into(),
        manifest: Bytes::from_static(b"a toy manifest"),
        tokenizer: Some(Bytes::from(vec![7; 700_000])),
    }
}

/// Nodes that together hold a model.
pub(crate) struct Swarm {
    pub(crate) model: ToyModel,
    pub(crate) nodes: Vec<Node>,
    pub(crate) directory: StaticDirectory,
}

impl Swarm {
    pub(crate) async fn start(model: ToyModel, parts: u32) -> Self {
        Self::with_hooks(model, parts, |_| None).await
    }

    pub(crate) async fn with_hooks(
        model: ToyModel,
        parts: u32,
        hook: impl Fn(usize) -> Option<StepHook>,
    ) -> Self {
        Self::configured(model, parts, hook, |config| config).await
    }

    pub(crate) async fn configured(
        model: ToyModel,
        parts: u32,
        hook: impl Fn(usize) -> Option<StepHook>,
        configure: impl Fn(NodeConfig) -> NodeConfig,
    ) -> Self {
        let directory = StaticDirectory::shared();
        let mut nodes = Vec::new();
        for (index, span) in LayerSpan::split_evenly(model.n_layers, parts).unwrap().into_iter().enumerate() {
            let mut stage = ToyStage::new(model, span);
            if let Some(hook) = hook(index) {
                stage = stage.with_hook(hook);
            }
            let config = configure(NodeConfig::new(key(index as u8 + 1), loopback(), served()));
            let discovery = Discovery::Directory(std::sync::Arc::new(directory.member()));
            nodes.push(Node::bind(config, discovery, stage.into_loader()).await.unwrap());
        }
        Self { model, nodes, directory }
    }

    pub(crate) fn plan(&self) -> Plan {
        let stages = self
            .nodes
            .iter()
            .map(|node| PlanStage {
                node: node.ready().node,
                addr: node.ready().listen,
                span: node.ready().layers.unwrap(),
            })
            .collect();
        Plan { model: served().id(), class: NumericsClass::Exact, n_layers: self.model.n_layers, stages }
    }

    pub(crate) async fn shutdown(self) {
        for node in self.nodes {
            node.stop_now().await;
        }
    }
}

/// What a node told the router.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Sampled(Sampled),
    Progress(Progress),
    Failed(Failed),
    Ended(Ended),
    Gone,
}

/// A router without a plan of its own.
pub(crate) struct TestRouter {
    pub(crate) endpoint: Endpoint,
    pub(crate) peers: HashMap<NodeId, Peer>,
    reports: mpsc::Receiver<(NodeId, Told)>,
    report_sender: mpsc::Sender<(NodeId, Told)>,
    tasks: tokio::task::JoinSet<()>,
    passed: Vec<(NodeId, Told)>,
}

pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) control: FrameSender,
}

/// A session as the router means it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) session: u64,
    pub(crate) generation: u32,
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: u32,
    pub(crate) lease_ms: u32,
}

impl Asked {
    pub(crate) fn new(session: u64, prompt: &[u32], max_tokens: u32) -> Self {
        Self { session, generation: 0, prompt: prompt.to_vec(), max_tokens, lease_ms: LEASE_MS }
    }

    pub(crate) fn open(&self, plan: &Plan, stage: usize) -> Open {
        let tail = TailTerms {
            history: self.prompt.clone(),
            generated: 0,
            sampling: SamplingParams::default(),
            eos: vec![],
            max_tokens: self.max_tokens,
        };
        Open {
            session: SessionId::new(self.session),
            generation: Generation::new(self.generation),
            plan: plan.clone(),
            stage: stage as u16,
            max_positions: self.prompt.len() as u32 + self.max_tokens,
            lease_ms: self.lease_ms,
            tail: (stage + 1 == plan.stages.len()).then_some(tail),
            service: Added::default(),
        }
    }
}

impl TestRouter {
    pub(crate) fn new(number: u8) -> Self {
        let mut config = EndpointConfig::new(key(number), loopback());
        config.accept = false;
        let (report_sender, reports) = mpsc::channel(100_000);
        Self {
            endpoint: Endpoint::bind(config).unwrap(),
            peers: HashMap::new(),
            reports,
            report_sender,
            tasks: tokio::task::JoinSet::new(),
            passed: Vec::new(),
        }
    }

    pub(crate) async fn peer(&mut self, node: NodeId, addr: SocketAddr) -> &mut Peer {
        if !self.peers.contains_key(&node) {
            let target = Target::node(node, addr);
            let connection = self.endpoint.connect(target, ConnectionClass::Interactive).await.unwrap();
            let control = connection.open_uni().await.unwrap();
            self.tasks.spawn(listen(connection.clone(), self.report_sender.clone()));
            self.peers.insert(node, Peer { connection, control });
        }
        self.peers.get_mut(&node).unwrap()
    }

    /// Opens downstream-first.
    pub(crate) async fn open(&mut self, plan: &Plan, asked: &Asked) -> Result<(), Refusal> {
        for (stage, PlanStage { node, addr, .. }) in plan.stages.iter().enumerate().rev() {
            let open = asked.open(plan, stage);
            let peer = self.peer(*node, *addr).await;
            let answer = peer.connection.request(FrameKind::Open, open.encode(), PATIENCE).await.unwrap();
            match answer.kind {
                FrameKind::Opened => {
                    let opened: Opened = answer.decode().unwrap();
                    assert_eq!(opened.digest, plan.digest());
                }
                _ => return Err(answer.decode::<Refused>().unwrap().refusal),
            }
        }
        Ok(())
    }

    pub(crate) async fn send<M: Message>(&mut self, to: NodeId, message: &M) {
        self.peers.get_mut(&to).unwrap().control.send_message(message).await.unwrap();
    }

    pub(crate) async fn prompt(&mut self, plan: &Plan, asked: &Asked) {
        let tokens = Tokens {
            session: SessionId::new(asked.session),
            generation: Generation::new(asked.generation),
            start: Position::new(0),
            tokens: asked.prompt.clone(),
        };
        self.send(plan.stages[0].node, &tokens).await;
    }

    pub(crate) async fn credit(&mut self, plan: &Plan, asked: &Asked, run_until: u32) {
        for stage in &plan.stages {
            let credit = Credit {
                session: SessionId::new(asked.session),
                generation: Generation::new(asked.generation),
                run_until: Position::new(run_until),
            };
            self.send(stage.node, &credit).await;
        }
    }

    pub(crate) async fn close(&mut self, plan: &Plan, asked: &Asked, code: CloseCode) {
        for stage in &plan.stages {
            let close = Close {
                session: SessionId::new(asked.session),
                generation: Generation::new(asked.generation),
                code,
            };
            self.send(stage.node, &close).await;
        }
    }

    /// Opens, prompts, gives all credit.
    pub(crate) async fn start(&mut self, plan: &Plan, asked: &Asked) {
        self.open(plan, asked).await.unwrap();
        self.prompt(plan, asked).await;
        self.credit(plan, asked, u32::MAX).await;
    }

    /// The next report that `pick` takes; others are kept for later calls.
    pub(crate) async fn wait<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(NodeId, &Told) -> Option<T>,
    ) -> T {
        if let Some((index, found)) =
            self.passed.iter().enumerate().find_map(|(index, (node, told))| Some((index, pick(*node, told)?)))
        {
            self.passed.remove(index);
            return found;
        }
        let wait = async {
            loop {
                let (node, told) = self.reports.recv().await.unwrap();
                match pick(node, &told) {
                    Some(found) => return found,
                    None if matches!(told, Told::Progress(_)) => {}
                    None => self.passed.push((node, told)),
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("waited in vain for {what}; seen: {:?}", self.passed))
    }

    /// Tokens of a session up to the one that ends it, or to `most`.
    pub(crate) async fn tokens(&mut self, session: u64, most: usize) -> Vec<u32> {
        let mut tokens = Vec::new();
        while tokens.len() < most {
            let sampled = self
                .wait("a token", |_, told| match told {
                    Told::Sampled(sampled) if sampled.session.get() == session => Some(sampled.clone()),
                    Told::Failed(failed) if failed.session.get() == session => panic!("{failed:?}"),
                    _ => None,
                })
                .await;
            tokens.push(sampled.token);
            if sampled.finish != Finish::No {
                break;
            }
        }
        tokens
    }

    pub(crate) async fn failed(&mut self, session: u64, by: NodeId) -> Failed {
        self.wait("a failure", |node, told| match told {
            Told::Failed(failed) if failed.session.get() == session && node == by => Some(failed.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn ended(&mut self, session: u64, by: NodeId) -> Ended {
        self.wait("an account", |node, told| match told {
            Told::Ended(ended) if ended.session.get() == session && node == by => Some(*ended),
            _ => None,
        })
        .await
    }

    /// Ends as a killed process does not: with a word.
    pub(crate) async fn leave(self) {
        self.endpoint.shutdown().await;
    }
}

async fn listen(connection: Connection, reports: mpsc::Sender<(NodeId, Told)>) {
    let peer = connection.peer();
    while let Ok(mut stream) = connection.accept_uni().await {
        while let Ok(Some(frame)) = stream.recv().await {
            if reports.send((peer, told(&frame))).await.is_err() {
                return;
            }
        }
    }
    let _ = reports.send((peer, Told::Gone)).await;
}

fn told(frame: &RawFrame) -> Told {
    match frame.kind {
        FrameKind::Sampled => Told::Sampled(frame.decode().unwrap()),
        FrameKind::Progress => Told::Progress(frame.decode().unwrap()),
        FrameKind::Failed => Told::Failed(frame.decode().unwrap()),
        FrameKind::Ended => Told::Ended(frame.decode().unwrap()),
        other => panic!("{other} on a report stream"),
    }
}

/// Asks until the node's load is as wanted.
pub(crate) async fn wait_for_status(node: &Node, what: &str, wanted: impl Fn(&NodeStatus) -> bool) {
    let wait = async {
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        while !wanted(&node.status()) {
            beat.tick().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{what}: {:?}", node.status());
}

pub(crate) async fn remote_status(connection: &Connection) -> NodeStatus {
    connection.request_message(&StatusRequest, PATIENCE).await.unwrap()
}
