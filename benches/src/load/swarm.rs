//! The swarm that a run is made against: one that is there, or nodes of our own with a router in a process of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::processes::{NodeProcess, Programs, Running, http_get};
use cluster_tests::stamps::Stamps;
use cluster_tests::toy;
use proto::{LayerSpan, NodeKey};
use proto_transport::Target;
use serde_json::Value;
use shard_node::discovery::Discovery;
use shard_node::node::{AdminConfig, Node, NodeConfig, PortChoice};
use shard_node_stage::{StepHook, ToyModel, ToyStage};

use super::client::Word;
use super::{Options, Scenario};
use crate::leash;
use crate::synthetic::{self, StoredAs};
use crate::usage::{Usage, usage};

/// Layers of the toy model.
const TOY_LAYERS: u32 = 12;
/// Positions of the toy model: long streams shall not end by themselves.
const TOY_CONTEXT: u32 = 65_536;

/// A running router and what is known of it.
#[derive(Debug)]
pub(crate) struct Swarm {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Ids of prompts are below this.
    pub(crate) vocab: u32,
    /// Words of prompts, if the model has a tokenizer of its own.
    pub(crate) word: Option<Word>,
    /// When the tail of toy nodes had its tokens, if the scenario asks for it.
    pub(crate) stamps: Stamps,
    router: Option<Running>,
    /// Where its metrics are.
    admin: String,
    nodes: Nodes,
    _home: Option<tempfile::TempDir>,
}

#[derive(Debug)]
enum Nodes {
    Theirs,
    Processes(Vec<NodeProcess>),
    Toys(Vec<Node>),
}

impl Swarm {
    /// A router that somebody else runs.
    pub(crate) fn there(url: &str, vocab: u32) -> Result<Self> {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let address = address.parse().with_context(|| format!("read --url {url}: http://IP:PORT"))?;
        let (stamps, admin) = (Stamps::default(), String::new());
        Ok(Self {
            address,
            vocab,
            word: None,
            stamps,
            router: None,
            admin,
            nodes: Nodes::Theirs,
            _home: None,
        })
    }

    /// Nodes and a router of our own. `arguments` are the router's.
    pub(crate) async fn start(options: &Options, arguments: &[&str]) -> Result<Self> {
        let programs = leash::programs()?;
        let home = tempfile::tempdir()?;
        let stamps = Stamps::default();
        let (nodes, vocab, target) = if options.toy {
            let nodes = toys(options, &stamps).await?;
            let first = nodes[0].ready();
            let target = format!("{}@{}", first.node, first.listen);
            (Nodes::Toys(nodes), ToyModel::new(1).vocab, target)
        } else {
            let (nodes, vocab) = processes(&programs, home.path(), options)?;
            let target = nodes[0].ready().target();
            (Nodes::Processes(nodes), vocab, target)
        };
        let mut command = programs.command("router", home.path());
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--bootstrap", &target]);
        command.args(arguments);
        let mut router = Running::start(command, &home.path().join("router.log"))?;
        let line = router.line(Duration::from_mins(1));
        let line = line.with_context(|| format!("wait for the router: {}", router.log_text()))?;
        let ready: Value = serde_json::from_str(&line)?;
        let address = ready["listen"].as_str().context("the ready line has an address")?.parse()?;
        let admin = ready["admin"].as_str().context("the ready line has an admin address")?.to_owned();
        let word: Option<Word> = match (options.toy, options.synthetic) {
            (true, _) => Some(|id| format!("w{id}")),
            (false, None) => Some(|id| WORDS[id as usize % WORDS.len()].to_owned()),
            (false, Some(_)) => None,
        };
        let router = Some(router);
        let swarm = Self { address, vocab, word, stamps, router, admin, nodes, _home: Some(home) };
        swarm.wait_for_model().await?;
        Ok(swarm)
    }

    /// A router that starts beside its nodes may look before they are announced.
    async fn wait_for_model(&self) -> Result<()> {
        for _ in 0..600 {
            let models = cluster_tests::http::get(self.address, "/v1/models").await?.json().await?;
            if models["data"].as_array().is_some_and(|models| !models.is_empty()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the router finds no model")
    }

    /// What the router has used so far; `None` if it is not ours.
    pub(crate) fn usage(&self) -> Result<Option<Usage>> {
        self.router.as_ref().map(|router| usage(router.pid())).transpose()
    }

    /// Positions of KV that each node has promised.
    pub(crate) fn kv_reserved(&self) -> Result<Vec<f64>> {
        self.metric("shard_node_kv_reserved_positions")
    }

    /// A metric without labels, of each node.
    pub(crate) fn metric(&self, name: &str) -> Result<Vec<f64>> {
        let page = |admin: &str| -> Result<f64> {
            let page = http_get(admin, "/metrics")?;
            let line =
                page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
            let line = line.with_context(|| format!("no metric {name}"))?;
            line.rsplit(' ').next().context("a metric has a value")?.parse().context("read a metric")
        };
        match &self.nodes {
            Nodes::Theirs => anyhow::bail!("the nodes are not ours: leave --url out"),
            Nodes::Processes(nodes) => nodes.iter().map(|node| page(&node.ready().admin)).collect(),
            Nodes::Toys(nodes) => nodes
                .iter()
                .map(|node| page(&node.ready().admin.context("a node has an admin endpoint")?.to_string()))
                .collect(),
        }
    }

    /// A histogram of the router: how many values there are within each bound, the last bound is infinite.
    pub(crate) fn router_histogram(&self, name: &str) -> Result<Vec<(f64, f64)>> {
        let page = http_get(&self.admin, "/metrics")?;
        let name = format!("{name}_bucket{{le=\"");
        let values = page.lines().filter_map(|line| line.strip_prefix(&name)?.split_once("\"} "));
        values.map(|(bound, count)| Ok((bound.parse()?, count.parse()?))).collect()
    }

    /// The router's log so far, if it is ours.
    pub(crate) fn router_log(&self) -> String {
        self.router.as_ref().map(Running::log_text).unwrap_or_default()
    }
}

/// The nodes' bounds of one span after the other.
fn bounds(layers: u32, nodes: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..nodes).map(move |node| (layers * node / nodes, layers * (node + 1) / nodes))
}

fn processes(programs: &Programs, home: &Path, options: &Options) -> Result<(Vec<NodeProcess>, u32)> {
    let (model, layers, vocab) = match options.synthetic {
        Some(shape) => (synthetic::made(shape, StoredAs::Bf16)?, shape.layers, shape.vocab),
        None => (programs.model()?, REAL_LAYERS, REAL_VOCAB),
    };
    let mut nodes: Vec<NodeProcess> = Vec::new();
    for (start, end) in bounds(layers, options.nodes) {
        let mut arguments: Vec<OsString> = vec!["--model".into(), model.clone().into()];
        arguments.extend(["--numerics".into(), options.numerics.clone().into()]);
        arguments.extend(["--layers".into(), format!("{start}..{end}").into()]);
        if let Some(positions) = options.kv_positions {
            arguments.extend(["--kv-positions".into(), positions.to_string().into()]);
        }
        if let Some(first) = nodes.first() {
            arguments.extend(["--bootstrap".into(), first.ready().target().into()]);
        }
        nodes.push(programs.node(home, &arguments)?);
    }
    Ok((nodes, vocab))
}

/// For prompts of text to a model of ours that reads English.
const WORDS: [&str; 12] =
    ["the", "ship", "came", "harbour", "to", "wind", "and", "left", "of", "morning", "again", "fair"];

/// Of SmolLM2-135M.
const REAL_LAYERS: u32 = 30;
const REAL_VOCAB: u32 = 49_152;

/// Toy nodes in this process: they compute nothing to speak of, so that the router is what is measured.
async fn toys(options: &Options, stamps: &Stamps) -> Result<Vec<Node>> {
    let model = ToyModel { context: TOY_CONTEXT, ..ToyModel::new(TOY_LAYERS) };
    ensure!(options.nodes <= TOY_LAYERS, "at most {TOY_LAYERS} toy nodes");
    let mut nodes: Vec<Node> = Vec::new();
    for (number, (start, end)) in (1u8..).zip(bounds(TOY_LAYERS, options.nodes)) {
        let served = toy::served(model, &[], Some(&toy::word_tokenizer(model.vocab)));
        let key = NodeKey::from_seed(&[number; 32]);
        let mut config = NodeConfig::new(key, ([127, 0, 0, 1], 0).into(), served);
        config.admin = Some(AdminConfig { addr: ([127, 0, 0, 1], 0).into(), port: PortChoice::Exactly });
        config.kv_positions = Some(options.kv_positions.unwrap_or(TOY_KV));
        let bootstrap = nodes
            .first()
            .map(|first| Target::node(first.ready().node, first.ready().listen))
            .into_iter()
            .collect();
        let discovery = Discovery::Dht { bootstrap, state_dir: None };
        let stage = ToyStage::new(model, LayerSpan::new(start, end)?).with_hook(pause(options.step_us));
        // Stamps grow with every token: only where they are read.
        let stamped = options.scenario == Some(Scenario::Lag) && end == TOY_LAYERS;
        let loader = if stamped { stamps.loader(stage) } else { stage.into_loader() };
        nodes.push(Node::bind(config, discovery, loader).await?);
    }
    Ok(nodes)
}

/// Thousands of long toy sessions.
const TOY_KV: u64 = 1 << 28;

/// Lets each step take at least this long, as if something were computed.
fn pause(step_us: u64) -> StepHook {
    let step = Duration::from_micros(step_us);
    Box::new(move |_| {
        let begun = now();
        while begun.elapsed() < step {
            std::thread::park_timeout(step.saturating_sub(begun.elapsed()));
        }
        Ok(())
    })
}

#[expect(clippy::disallowed_methods, reason = "a toy's step takes real time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
