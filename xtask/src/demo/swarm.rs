//! The demo's nodes: real processes on loopback, the first of which is the bootstrap of the others.
//!
//! Owns starting them, reading their ready lines and stopping them side by side. It does not know what they
//! say to each other.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::spans::Span;
use crate::leash::{Leashed, NoLine};
use crate::process::Stopwatch;

/// What all nodes of a run share.
#[derive(Debug)]
pub(super) struct NodeSettings {
    pub(super) program: PathBuf,
    pub(super) model: OsString,
    pub(super) numerics: String,
    pub(super) threads: Option<u32>,
    /// Where logs and state go.
    pub(super) directory: PathBuf,
    /// Which node runs another program, and how that cheats.
    pub(super) cheater: Option<(usize, PathBuf, String)>,
}

/// Running nodes that cover the model. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Swarm {
    nodes: Vec<Leashed>,
    /// Of each node, and where its metrics are.
    ready: Vec<(String, Option<String>)>,
    bootstrap: String,
    model: String,
}

/// The line that a node prints once it serves.
#[derive(Debug, Deserialize)]
struct Ready {
    event: String,
    node: String,
    listen: String,
    admin: Option<String>,
    model: String,
    layers: [u32; 2],
}

impl Swarm {
    /// Starts the node of the first span, then all others side by side, and waits until each is ready.
    pub(super) fn start(settings: &NodeSettings, spans: &[Span]) -> Result<Self> {
        let mut swarm =
            Self { nodes: Vec::new(), ready: Vec::new(), bootstrap: String::new(), model: String::new() };
        let watch = Stopwatch::start();
        for (index, &span) in spans.iter().enumerate() {
            swarm.nodes.push(start_node(settings, index, span, &swarm.bootstrap, admin_port(index))?);
            // The others need its address, and nobody knows that before it has one.
            if index == 0 {
                let ready = swarm.ready(settings, index, span)?;
                report_ready(0, 1, &ready, &watch);
                swarm.ready.push((ready.node.clone(), ready.admin.clone()));
                swarm.bootstrap = format!("{}@{}", ready.node, ready.listen);
                swarm.model = ready.model;
            }
        }
        for (index, &span) in spans.iter().enumerate().skip(1) {
            let ready = swarm.ready(settings, index, span)?;
            report_ready(index, spans.len(), &ready, &watch);
            swarm.ready.push((ready.node, ready.admin));
        }
        Ok(swarm)
    }

    /// Waits for a node; starts it once more if somebody took its admin port after we had looked.
    fn ready(&mut self, settings: &NodeSettings, index: usize, span: Span) -> Result<Ready> {
        let log = settings.log_of(index);
        match wait_ready(&self.nodes[index], &log) {
            Err(_) if tail(&log).contains(PORT_TAKEN) => {
                self.nodes[index] = start_node(settings, index, span, &self.bootstrap, 0)?;
                wait_ready(&self.nodes[index], &log)
            }
            ready => ready,
        }
    }

    /// A node that has a session now, not the first one if another one has.
    pub(super) fn busy(&self) -> Option<usize> {
        (0..self.nodes.len()).rev().find(|&node| self.sessions(node).is_some_and(|open| open > 0.0))
    }

    fn sessions(&self, node: usize) -> Option<f64> {
        let page = read_metrics(self.ready.get(node)?.1.as_deref()?)?;
        page.lines().find_map(|line| line.strip_prefix("shard_node_sessions ")?.trim().parse().ok())
    }

    /// Kills a node as a power cut would; gives its id.
    pub(super) fn kill(&self, node: usize) -> Option<&str> {
        self.nodes.get(node)?.kill();
        self.ready.get(node).map(|(id, _)| &id[..])
    }

    /// A node's id.
    pub(super) fn id(&self, node: usize) -> Option<&str> {
        self.ready.get(node).map(|(id, _)| &id[..])
    }

    /// `NODEID@ip:port` of the first node.
    pub(super) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The name under which the nodes announce the model.
    pub(super) fn model(&self) -> &str {
        &self.model
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        // All at once; each is then waited for as it is dropped.
        for node in &self.nodes {
            node.ask_to_stop();
        }
    }
}

impl NodeSettings {
    fn log_of(&self, index: usize) -> PathBuf {
        self.directory.join(format!("node-{index}.log"))
    }
}

/// A folder for this run under `demos`, and the link `latest` to it; of ended runs the last few are kept.
pub(super) fn run_directory(demos: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(demos).with_context(|| format!("create {}", demos.display()))?;
    let mut ended: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(demos)?
        .flatten()
        .filter(|entry| has_ended(&entry.file_name().to_string_lossy()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    ended.sort();
    for (_, old) in ended.iter().rev().skip(KEPT_RUNS) {
        let _ = std::fs::remove_dir_all(old);
    }
    let name = format!("run-{}", std::process::id());
    let directory = demos.join(&name);
    // A leftover of an earlier process with our number would bring its identities along.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    std::fs::write(empty_config(&directory), "").context("write an empty configuration")?;
    let latest = demos.join("latest");
    let _ = std::fs::remove_file(&latest);
    let _ = std::os::unix::fs::symlink(name, latest);
    Ok(directory)
}

/// A configuration that says nothing: the demo does not depend on what its user has configured.
pub(super) fn empty_config(directory: &Path) -> PathBuf {
    directory.join("empty.toml")
}

/// Whether this is the folder of a run whose process is gone.
fn has_ended(name: &str) -> bool {
    name.strip_prefix("run-")
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn start_node(
    settings: &NodeSettings,
    index: usize,
    span: Span,
    bootstrap: &str,
    admin_port: u16,
) -> Result<Leashed> {
    let log_path = settings.log_of(index);
    let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
    let mut arguments: Vec<OsString> = vec!["serve".into(), "--model".into(), settings.model.clone()];
    let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    option("--layers", span.to_string().into());
    option("--numerics", settings.numerics.clone().into());
    option("--listen", "127.0.0.1:0".into());
    option("--admin", format!("127.0.0.1:{admin_port}").into());
    option("--config", empty_config(&settings.directory).into_os_string());
    option("--state-dir", settings.directory.join(format!("node-{index}")).into_os_string());
    if let Some(threads) = settings.threads {
        option("--threads", threads.to_string().into());
    }
    if !bootstrap.is_empty() {
        option("--bootstrap", bootstrap.into());
    }
    match &settings.cheater {
        Some((place, program, cheat)) if *place == index => {
            let cheat = [("LAYERLANE_CHEAT", cheat.as_str())];
            Leashed::start_with(program, &arguments, &cheat, Stdio::piped(), log.into())
        }
        _ => Leashed::start(&settings.program, &arguments, Stdio::piped(), log.into()),
    }
}

/// The documented admin port of a node if it is free, so that a Prometheus finds it; otherwise any.
fn admin_port(index: usize) -> u16 {
    let documented = u16::try_from(index).ok().and_then(|index| FIRST_ADMIN_PORT.checked_add(index));
    documented.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap_or(0)
}

/// Waits for a node's ready line; the error tells the end of its log.
fn wait_ready(node: &Leashed, log: &Path) -> Result<Ready> {
    let watch = Stopwatch::start();
    loop {
        let why = match node.line(READY_TIMEOUT.saturating_sub(watch.elapsed())) {
            Ok(line) => match serde_json::from_str::<Ready>(&line) {
                Ok(ready) if ready.event == "ready" => return Ok(ready),
                _ => {
                    eprintln!("{line}");
                    continue;
                }
            },
            Err(NoLine::Ended) => "ended before it was ready".to_owned(),
            Err(NoLine::TimedOut) => format!("was not ready after {} s", READY_TIMEOUT.as_secs()),
        };
        bail!(
            "node {} (process {}) {why}; its log {} ends:\n{}",
            name_of(log),
            node.pid(),
            log.display(),
            tail(log)
        );
    }
}

fn read_metrics(admin: &str) -> Option<String> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(METRICS_TIMEOUT)).ok()?;
    stream
        .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes())
        .ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

fn report_ready(index: usize, count: usize, ready: &Ready, watch: &Stopwatch) {
    let [start, end] = ready.layers;
    eprintln!(
        "node {index}{} {:.8} at {} holds layers {start}..{end}, metrics at {}, ready after {:.1} s",
        if count == 1 { " (bootstrap)" } else { "" },
        ready.node,
        ready.listen,
        ready.admin.as_deref().map_or_else(|| "none".to_owned(), |admin| format!("http://{admin}/metrics")),
        watch.elapsed().as_secs_f64(),
    );
}

fn name_of(log: &Path) -> String {
    log.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn tail(log: &Path) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// `deploy/prometheus/demo.yml` scrapes this port and those after it.
const FIRST_ADMIN_PORT: u16 = 7402;

/// What a node says of it in its log.
const PORT_TAKEN: &str = "is in use by another program";

/// Reading and packing a large shard from a slow disk takes minutes; a node that hangs does not end by itself.
const READY_TIMEOUT: Duration = Duration::from_mins(10);

/// Of a node on this machine.
const METRICS_TIMEOUT: Duration = Duration::from_secs(2);

/// Enough to compare a few runs.
const KEPT_RUNS: usize = 4;
