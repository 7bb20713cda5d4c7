//! Decode and prefill of a synthetic model over three nodes on loopback, through the router; and, if its programs are
//! given, of llama.cpp over RPC with three servers on the same weights, alternating.

use std::ffi::OsString;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use cluster_tests::processes::{NodeProcess, Programs, Running};
use serde_json::{Value, json};

use crate::statistics::median;
use crate::synthetic::{self, Shape, StoredAs};
use crate::{leash, print_result, tell};

/// Options of `swarm-speed`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The synthetic model
    #[arg(long, default_value = "llama-1b", value_parser = synthetic::parse_shape)]
    shape: Shape,
    /// Numerics classes of our nodes; those that are refused are named and left out
    #[arg(long, value_delimiter = ',', default_value = "bf16,int8,int4")]
    classes: Vec<String>,
    /// Nodes, and servers of llama.cpp
    #[arg(long, default_value_t = 3)]
    stages: u32,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Tokens of the prompt whose prefill is timed
    #[arg(long, default_value_t = 512)]
    prompt: u32,
    /// Tokens generated
    #[arg(long, default_value_t = 64)]
    tokens: u32,
    /// Folder with llama.cpp's llama-bench and ggml-rpc-server
    #[arg(long, value_name = "DIR", requires = "gguf")]
    llama_cpp: Option<PathBuf>,
    /// The same weights as made by `reference/to_gguf.py`, as CLASS=FILE; may be given several times
    #[arg(long, value_name = "CLASS=FILE", value_parser = class_and_file)]
    gguf: Vec<(String, PathBuf)>,
}

/// Tokens a second.
#[derive(Clone, Copy, Debug)]
struct Speed {
    decode: f64,
    prefill: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let programs = leash::programs()?;
    let model = synthetic::made(options.shape, StoredAs::Bf16)?;
    let mut results = Vec::new();
    for class in &options.classes {
        let home = tempfile::tempdir()?;
        let swarm = match swarm(&programs, home.path(), &model, class, options) {
            Ok(swarm) => swarm,
            Err(error) => {
                tell(&format!("{class}: left out: {error:#}"));
                continue;
            }
        };
        let file = options.gguf.iter().find(|(of, _)| of == class).map(|(_, file)| file);
        let peer = match (&options.llama_cpp, file) {
            (Some(folder), Some(file)) => Some(Peer::start(folder, file, options, home.path())?),
            _ => None,
        };
        ours(&programs, home.path(), &swarm, options).context("warm up")?;
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..options.rounds {
            if round % 2 == 1 {
                theirs.extend(peer.as_ref().map(|peer| peer.measure(options)).transpose()?);
            }
            mine.push(ours(&programs, home.path(), &swarm, options)?);
            if round % 2 == 0 {
                theirs.extend(peer.as_ref().map(|peer| peer.measure(options)).transpose()?);
            }
            tell(&format!("{class}, round {round}: {:?}, llama.cpp {:?}", mine.last(), theirs.last()));
        }
        results.push(result(class, &mine, &theirs));
    }
    print_result(&json!({
        "bench": "swarm-speed",
        "shape": options.shape.name,
        "stages": options.stages,
        "rounds": options.rounds,
        "prompt": options.prompt,
        "tokens": options.tokens,
        "classes": results,
    }));
    Ok(())
}

fn swarm(
    programs: &Programs,
    home: &Path,
    model: &Path,
    class: &str,
    options: &Options,
) -> Result<Vec<NodeProcess>> {
    let mut nodes: Vec<NodeProcess> = Vec::new();
    for stage in 0..options.stages {
        let bound = |stage: u32| options.shape.layers * stage / options.stages;
        let mut arguments: Vec<OsString> =
            vec!["--model".into(), model.into(), "--numerics".into(), class.into()];
        arguments.extend(["--layers".into(), format!("{}..{}", bound(stage), bound(stage + 1)).into()]);
        if let Some(first) = nodes.first() {
            arguments.extend(["--bootstrap".into(), first.ready().target().into()]);
        }
        nodes.push(programs.node(home, &arguments)?);
    }
    Ok(nodes)
}

/// One prompt of which only the first token is wanted, then one answer to a short prompt.
fn ours(programs: &Programs, home: &Path, swarm: &[NodeProcess], options: &Options) -> Result<Speed> {
    let ids = |count: u32| {
        let ids = (0..count).map(|index| (index * 7919 % options.shape.vocab).to_string());
        ids.collect::<Vec<_>>().join(",")
    };
    let ask = |prompt: u32, tokens: u32, key: &str| -> Result<f64> {
        let (ids, tokens) = (ids(prompt), tokens.to_string());
        let answer =
            programs.generate(home, swarm[0].ready(), &["--token-ids", &ids, "--max-tokens", &tokens])?;
        answer["timings"][key].as_f64().with_context(|| format!("no {key} in {answer}"))
    };
    Ok(Speed {
        prefill: ask(options.prompt, 1, "prefill_tokens_per_second")?,
        decode: ask(SHORT_PROMPT, options.tokens, "decode_tokens_per_second")?,
    })
}

/// llama.cpp's servers, and the program that measures over them.
#[derive(Debug)]
struct Peer {
    bench: PathBuf,
    file: PathBuf,
    addresses: Vec<String>,
    _servers: Vec<Running>,
}

impl Peer {
    fn start(folder: &Path, file: &Path, options: &Options, home: &Path) -> Result<Self> {
        let (mut addresses, mut servers) = (Vec::new(), Vec::new());
        for number in 0..options.stages {
            // It takes no port 0: a free one is asked for, and is still free a moment later.
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut command = leash::command(folder.join("ggml-rpc-server"));
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            servers.push(Running::start(command, &home.join(format!("rpc-server-{number}.log")))?);
            let address = format!("127.0.0.1:{port}");
            let answers = (0..CONNECT_TRIES).any(|_| {
                let connected = TcpStream::connect(&address).is_ok();
                if !connected {
                    std::thread::park_timeout(CONNECT_PAUSE);
                }
                connected
            });
            ensure!(answers, "rpc-server does not listen: {}", servers[number as usize].log_text());
            addresses.push(address);
        }
        Ok(Self { bench: folder.join("llama-bench"), file: file.to_owned(), addresses, _servers: servers })
    }

    fn measure(&self, options: &Options) -> Result<Speed> {
        let mut command = leash::command(&self.bench);
        command.arg("-m").arg(&self.file).args(["--rpc", &self.addresses.join(",")]);
        command.args(["-ngl", "99", "-p", &options.prompt.to_string(), "-n", &options.tokens.to_string()]);
        command.args(["-r", "1", "-o", "json"]);
        let output = command.output().with_context(|| format!("start {command:?}"))?;
        let stderr = || String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "llama-bench failed: {}", stderr());
        let tests: Vec<Value> = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("read llama-bench: {}", stderr()))?;
        let speed = |key: &str| {
            let test = tests.iter().find(|test| test[key].as_u64().is_some_and(|count| count > 0));
            test.and_then(|test| test["avg_ts"].as_f64()).with_context(|| format!("no test with {key}"))
        };
        Ok(Speed { decode: speed("n_gen")?, prefill: speed("n_prompt")? })
    }
}

fn result(class: &str, ours: &[Speed], theirs: &[Speed]) -> Value {
    let of = |speeds: &[Speed], part: fn(&Speed) -> f64| median(&speeds.iter().map(part).collect::<Vec<_>>());
    let decode = |speed: &Speed| speed.decode;
    let prefill = |speed: &Speed| speed.prefill;
    let mut result = json!({
        "class": class,
        "decode_tokens_per_second": of(ours, decode),
        "prefill_tokens_per_second": of(ours, prefill),
    });
    if !theirs.is_empty() {
        let ratios = |part: fn(&Speed) -> f64| {
            median(&ours.iter().zip(theirs).map(|(a, b)| part(a) / part(b)).collect::<Vec<_>>())
        };
        result["llama_cpp_decode_tokens_per_second"] = of(theirs, decode).into();
        result["llama_cpp_prefill_tokens_per_second"] = of(theirs, prefill).into();
        result["decode_ratio"] = ratios(decode).into();
        result["prefill_ratio"] = ratios(prefill).into();
    }
    result
}

fn class_and_file(text: &str) -> Result<(String, PathBuf)> {
    let parts = text.split_once('=');
    let (class, file) = parts.context("write it as CLASS=FILE, for example int8=model-q8_0.gguf")?;
    Ok((class.into(), file.into()))
}

/// Tokens before a timed answer; llama-bench has none.
const SHORT_PROMPT: u32 = 4;
const CONNECT_TRIES: u32 = 200;
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
