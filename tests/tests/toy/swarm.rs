//! The harness: N nodes with toy stages, a directory (fixed list or DHT), routers, and faults by seed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::stamps::Stamps;
pub(crate) use cluster_tests::toy::{served, word_tokenizer};
use kademlia_dht::{Dht, DhtConfig, Directory, StaticDirectory};
use proto::record::VerifiedRecord;
use proto::session::SamplingParams;
use proto::{LayerSpan, NodeId, NodeKey};
use proto_keys::KeyRing;
use proto_telemetry::Registry;
use proto_transport::testing::{Faults, Link};
use proto_transport::{Endpoint, EndpointConfig, Target};
use router::Router;
use router::clock::unix_seconds;
use router::discovery::BlobCache;
use router::generate::{GenerateError, GenerateRequest, Reply, Step};
use router::metrics::RouterMetrics;
use router::model::Prompt;
use router_plan::NodeView;
use shard_node::discovery::Discovery;
use shard_node::node::{Node, NodeConfig, ServedModel};
use shard_node_stage::{StageLoader, StepHook, ToyModel, ToyStage};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Layers of the toy model.
pub(crate) const LAYERS: u32 = 30;

/// What a swarm is made of.
pub(crate) struct Settings {
    /// One node each.
    pub(crate) spans: Vec<LayerSpan>,
    pub(crate) model: ToyModel,
    pub(crate) served: ServedModel,
    /// Through the DHT; otherwise through a fixed list.
    pub(crate) dht: bool,
    /// What every endpoint's packets suffer, routers' included.
    pub(crate) link: Option<Link>,
    pub(crate) seed: u64,
    pub(crate) hook: fn(usize) -> Option<StepHook>,
    /// Of each node; `None` takes the default.
    pub(crate) kv_positions: Option<u64>,
    /// Of each node; `None` takes the default.
    pub(crate) boundary_bytes: Option<u64>,
    /// Of last stages.
    pub(crate) stamps: Option<Stamps>,
    /// Nodes have keys to sign with.
    pub(crate) signs: fn(usize) -> bool,
    /// Of each node; `None` takes the default.
    pub(crate) retain_bytes: Option<u64>,
}

impl Settings {
    pub(crate) fn split(parts: u32) -> Self {
        let model = ToyModel::new(LAYERS);
        Self {
            spans: LayerSpan::split_evenly(LAYERS, parts).unwrap(),
            model,
            served: served(model, &[], None),
            dht: false,
            link: None,
            seed: 1,
            hook: |_| None,
            kv_positions: None,
            boundary_bytes: None,
            stamps: None,
            signs: |_| false,
            retain_bytes: None,
        }
    }

    /// A model that takes any text and chats.
    pub(crate) fn talking(parts: u32) -> Self {
        let (model, served) = cluster_tests::toy::talking(ToyModel::new(LAYERS));
        Self { model, served, kv_positions: Some(1 << 20), ..Self::split(parts) }
    }

    pub(crate) fn spans(spans: &[(u32, u32)]) -> Self {
        let spans = spans.iter().map(|&(start, end)| LayerSpan::new(start, end).unwrap()).collect();
        Self { spans, ..Self::split(1) }
    }
}

/// Nodes that hold (parts of) a toy model.
pub(crate) struct ToySwarm {
    pub(crate) model: ToyModel,
    pub(crate) nodes: Vec<Node>,
    /// By node, in order.
    pub(crate) faults: Vec<Faults>,
    directory: StaticDirectory,
    dht: bool,
    link: Option<Link>,
    seed: u64,
    kv_positions: Option<u64>,
    boundary_bytes: Option<u64>,
    stamps: Option<Stamps>,
    signs: fn(usize) -> bool,
    retain_bytes: Option<u64>,
}

impl ToySwarm {
    pub(crate) async fn start(settings: Settings) -> Self {
        eprintln!("seed {}", settings.seed);
        Self::start_silently(settings).await
    }

    /// For those who tell the seed themselves.
    pub(crate) async fn start_silently(settings: Settings) -> Self {
        let mut swarm = Self {
            model: settings.model,
            nodes: Vec::new(),
            faults: Vec::new(),
            directory: StaticDirectory::shared(),
            dht: settings.dht,
            link: settings.link,
            seed: settings.seed,
            kv_positions: settings.kv_positions,
            boundary_bytes: settings.boundary_bytes,
            stamps: settings.stamps,
            signs: settings.signs,
            retain_bytes: settings.retain_bytes,
        };
        for (index, span) in settings.spans.iter().enumerate() {
            swarm.add(*span, settings.served.clone(), (settings.hook)(index)).await;
        }
        if settings.dht {
            swarm.wait_until_announced().await;
        }
        swarm
    }

    /// Adds a node.
    pub(crate) async fn add(&mut self, span: LayerSpan, served: ServedModel, hook: Option<StepHook>) {
        let mut stage = ToyStage::new(self.model, span);
        if let Some(hook) = hook {
            stage = stage.with_hook(hook);
        }
        let loader = match &self.stamps {
            Some(stamps) if span.end() == self.model.n_layers => stamps.loader(stage),
            _ => stage.into_loader(),
        };
        self.add_stage(served, loader).await;
    }

    /// Adds a node with a stage of its own kind.
    pub(crate) async fn add_stage(&mut self, served: ServedModel, loader: StageLoader) {
        let number = self.faults.len() as u8 + 1;
        let faults = self.faults(number);
        let mut config = NodeConfig::new(key(number), ([127, 0, 0, 1], 0).into(), served);
        config.endpoint = config.endpoint.with_faults(&faults);
        config.kv_positions = self.kv_positions;
        config.limits.retain_bytes = self.retain_bytes.unwrap_or(config.limits.retain_bytes);
        if (self.signs)(self.nodes.len()) {
            config.keys = Some(keys(number));
        }
        config.limits.boundary_bytes = self.boundary_bytes.unwrap_or(config.limits.boundary_bytes);
        let discovery = if self.dht {
            let bootstrap = self.nodes.iter().take(1).map(target).collect();
            Discovery::Dht { bootstrap, state_dir: None }
        } else {
            Discovery::Directory(Arc::new(self.directory.member()))
        };
        self.nodes.push(Node::bind(config, discovery, loader).await.unwrap());
        self.faults.push(faults);
        if !self.dht {
            self.wait_until_announced().await;
        }
    }

    /// A router of its own; `number` keeps identities apart.
    pub(crate) async fn router(&self, number: u8) -> TestRouter {
        let faults = self.faults(number);
        let mut config = EndpointConfig::new(key(number), ([127, 0, 0, 1], 0).into()).with_faults(&faults);
        config.accept = false;
        let endpoint = Endpoint::bind(config).unwrap();
        let addr = endpoint.local_addr();
        let (dht, directory): (_, Arc<dyn Directory>) = if self.dht {
            let bootstrap = self.nodes.iter().take(1).map(target).collect();
            let dht = Dht::start(endpoint.clone(), DhtConfig::client(bootstrap)).await;
            dht.joined(PATIENCE).await.unwrap();
            (Some(dht.clone()), Arc::new(dht))
        } else {
            (None, Arc::new(self.directory.member()))
        };
        let cache = tempfile::tempdir().unwrap();
        let registry = Registry::new();
        let metrics = RouterMetrics::register(&registry).unwrap();
        let router = Router::new(endpoint, directory, BlobCache::at(cache.path()), metrics);
        TestRouter { router, addr, faults, registry, dht, _cache: cache }
    }

    /// A router that has the nodes sign.
    pub(crate) async fn signing_router(&self, number: u8) -> TestRouter {
        let plain = self.router(number).await;
        TestRouter { router: plain.router.clone().with_keys(keys(number)), ..plain }
    }

    pub(crate) fn id(&self, node: usize) -> NodeId {
        self.nodes[node].ready().node
    }

    /// How errors name a node.
    pub(crate) fn label(&self, node: usize) -> String {
        let ready = self.nodes[node].ready();
        format!("node {} (layers {}, {})", ready.node.short(), ready.layers.unwrap(), ready.listen)
    }

    /// Waits until no node has a session or KV left.
    pub(crate) async fn wait_until_idle(&self) {
        let idle = async {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            while self.nodes.iter().any(|node| node.status().sessions > 0 || node.status().kv_reserved > 0) {
                look.tick().await;
            }
        };
        let left = || self.nodes.iter().map(|node| node.status().sessions).collect::<Vec<_>>();
        assert!(tokio::time::timeout(PATIENCE, idle).await.is_ok(), "sessions are left: {:?}", left());
    }

    pub(crate) async fn shutdown(self) {
        for node in self.nodes {
            node.stop_now().await;
        }
    }

    /// Announcing goes on by itself after a node is bound.
    async fn wait_until_announced(&self) {
        let announced = async {
            let probe = if self.dht { Some(self.router(250).await) } else { None };
            let mut look = tokio::time::interval(Duration::from_millis(20));
            loop {
                let found: Vec<NodeId> = if let Some(probe) = &probe {
                    match probe.router.view_of_all().await {
                        Ok(view) => view.nodes().map(NodeView::node).collect(),
                        Err(_) => Vec::new(),
                    }
                } else {
                    let records = self.directory.lookup_all_models().await.unwrap();
                    records.iter().map(VerifiedRecord::node).collect()
                };
                if self.nodes.iter().all(|node| found.contains(&node.ready().node)) {
                    break;
                }
                look.tick().await;
            }
            if let Some(probe) = probe {
                probe.shutdown().await;
            }
        };
        tokio::time::timeout(PATIENCE, announced).await.expect("every node should be announced");
    }

    fn faults(&self, number: u8) -> Faults {
        let faults = Faults::new(self.seed.wrapping_mul(1000) + u64::from(number));
        if let Some(link) = self.link {
            faults.everywhere(link);
        }
        faults
    }
}

/// A router with what belongs to it.
pub(crate) struct TestRouter {
    pub(crate) router: Router,
    /// What nodes see of it.
    pub(crate) addr: SocketAddr,
    pub(crate) faults: Faults,
    pub(crate) registry: Registry,
    dht: Option<Dht>,
    _cache: TempDir,
}

impl TestRouter {
    pub(crate) async fn generate(&self, request: &GenerateRequest) -> Result<Reply, GenerateError> {
        self.watch(request, &mut |_| {}).await
    }

    pub(crate) async fn watch(
        &self,
        request: &GenerateRequest,
        watch: &mut (dyn FnMut(Step<'_>) + Send),
    ) -> Result<Reply, GenerateError> {
        let cancel = CancellationToken::new();
        let answer = self.router.generate(request, watch, &cancel);
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer or an error should come")
    }

    /// The error's words.
    pub(crate) async fn error(&self, request: &GenerateRequest) -> String {
        self.generate(request).await.expect_err("should fail").to_string()
    }

    pub(crate) async fn shutdown(self) {
        if let Some(dht) = &self.dht {
            dht.shutdown().await;
        }
        self.router.shutdown().await;
    }
}

/// A greedy request for the toy model.
pub(crate) fn request(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        answer: proto::answer::AnswerTerms::default(),
        model: Some("toy".parse().unwrap()),
        class: None,
        prompt: Prompt::TokenIds(prompt.to_vec()),
        max_tokens,
        sampling: SamplingParams::default(),
        stop: Vec::new(),
        credit: 64,
        timeout: None,
        standby: false,
    }
}

/// A counter or gauge without labels of a node.
pub(crate) fn metric(node: &Node, name: &str) -> usize {
    value(&node.metrics_text(), name)
}

/// The same of its metrics: where many nodes are one process, each text of them takes its time, as it counts the files
/// that are open.
pub(crate) fn value(metrics: &str, name: &str) -> usize {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("every node has {name}")).parse().unwrap()
}

fn key(number: u8) -> NodeKey {
    NodeKey::from_seed(&[number; 32])
}

fn keys(number: u8) -> Arc<KeyRing> {
    Arc::new(KeyRing::fresh(&key(number), unix_seconds()).unwrap())
}

fn target(node: &Node) -> Target {
    Target::node(node.ready().node, node.ready().listen)
}
