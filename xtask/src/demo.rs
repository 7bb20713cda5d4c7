//! `cargo xtask demo`: a real model over several real processes on this machine, found through the DHT.
//!
//! Owns the order: set up, build, start nodes, generate, report, stop. Nodes are in `demo/swarm.rs`, what is
//! printed in `demo/report.rs`. Everything started here hangs on a leash, so it ends with us however we end.
//! It knows our programs only by their command lines and the JSON that they print.

mod audit;
mod chaos;
mod cheat;
mod evidence;
mod report;
mod spans;
mod swarm;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgAction, Args};
use serde_json::Value;

use crate::leash::Leashed;
use crate::process;
use crate::setup::{self, SetupArgs};
use crate::workspace::Workspace;
use audit::Audit;
use swarm::{NodeSettings, Swarm};

/// Options of `cargo xtask demo`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// How many processes share the model's layers equally
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// Model: a .gguf file, a directory, an alias or hf:ORG/NAME; by default the model that setup fetched
    #[arg(long, value_name = "REF")]
    model: Option<OsString>,
    /// What to ask
    #[arg(long, value_name = "TEXT", default_value = "What is gravity?", allow_hyphen_values = true)]
    prompt: String,
    /// Token ids, comma-separated, used as they are: no template, no BOS
    #[arg(long, value_name = "LIST", conflicts_with = "prompt")]
    token_ids: Option<String>,
    /// Put the prompt into the model's chat template (on by default; --chat=false continues the bare text)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true")]
    chat: bool,
    /// Stop after so many tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: u32,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value = "0")]
    temperature: String,
    /// Seed of the sampler
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// How to compute: bf16 is fast, int8 and int4 are faster and less close, exact gives the same bits however the model is split; -kv8 after bf16, int8 or int4 halves the KV
    #[arg(long, value_name = "C", default_value = "bf16")]
    numerics: String,
    /// Compute threads of each node; by default each chooses
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Two nodes for each span; one of them is killed in the middle of the answer, which goes on
    #[arg(long)]
    chaos: bool,
    /// A node in the middle cheats, and an audit finds it; which cheat: int8, int4, kv8, skip, identity or tamper
    #[arg(long, value_name = "NAME", value_parser = cheat::CHEATS, conflicts_with_all = ["chaos", "json"])]
    cheat: Option<String>,
    /// Save what the nodes signed in this file; `router verify FILE` checks it
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Print one JSON object as the last line of stdout; everything else goes to stderr
    #[arg(long)]
    json: bool,
    /// Take the programs from here and build nothing; for tests
    #[arg(long, value_name = "DIR", hide = true)]
    programs: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, args: &DemoArgs) -> Result<()> {
    let programs = match &args.programs {
        Some(directory) => directory.clone(),
        None => prepare(workspace, args.cheat.is_some())?,
    };
    let model =
        args.model.clone().unwrap_or_else(|| workspace.third_party().join(DEFAULT_MODEL).into_os_string());
    let layers = layers_of(&programs, &model)?;
    let mut spans = spans::equal(layers, args.nodes)?;
    if args.chaos {
        spans.extend(spans.clone());
    }

    let directory = swarm::run_directory(&workspace.target().join("demo"))?;
    let settings = NodeSettings {
        program: programs.join("shard-node"),
        model,
        numerics: args.numerics.clone(),
        threads: args.threads,
        directory: directory.clone(),
        cheater: None,
    };
    if let Some(cheat) = &args.cheat {
        let place = spans.len() / 2;
        let program = programs.join("examples/cheating_engine");
        let settings = NodeSettings { cheater: Some((place, program, cheat.clone())), ..settings };
        let swarm = Swarm::start(&settings, &spans)?;
        let audit = Audit { programs: &programs, args, model: &settings.model, directory: &directory };
        let said = cheat::play(&audit, cheat, (&swarm, place, spans[place]))?;
        drop(swarm);
        println!("{said}");
        return Ok(());
    }
    let swarm = Swarm::start(&settings, &spans)?;
    let router = programs.join("router");
    if args.chaos {
        let text = chaos::play(&router, args, &swarm, &directory)?;
        drop(swarm);
        let receipts = evidence::verified(&router, &evidence_file(args, &directory))?;
        println!("{text}\n{receipts}");
        return Ok(());
    }
    let answer = generate(&router, args, args.json, &swarm, &directory, || {})?;
    let file = evidence_file(args, &directory);
    let receipts = evidence::verified(&router, &file)?;
    if args.json {
        eprintln!("{receipts}");
        // The last line of stdout, whatever the stopping nodes may still have to say on stderr.
        drop(swarm);
        println!("{answer}");
    } else {
        println!("\n\n{}\n{receipts}", report::table(&answer));
        // Honest noise of answers like this one: a demo has no time for more.
        let audit = Audit { programs: &programs, args, model: &settings.model, directory: &directory };
        println!("{}", audit::summary(&audit.of(&swarm, &[file], "1,4")?));
        eprintln!("logs of the nodes: {}", directory.display());
    }
    Ok(())
}

/// Sets up and builds; gives the folder of the programs.
fn prepare(workspace: &Workspace, cheat: bool) -> Result<PathBuf> {
    // Only set-up knows whether what lies there is whole; it takes milliseconds where nothing is missing.
    setup::run(workspace, &SetupArgs::default())?;
    let packages = ["--package", "shard-node", "--package", "shard-node-engine", "--package", "router"];
    let mut build = process::cargo(workspace, &["build", "--release"]);
    process::run(build.args(packages).stdout(Stdio::null()))?;
    if cheat {
        let example = ["--package", "shard-node-engine", "--example", "cheating_engine"];
        let mut build = process::cargo(workspace, &["build", "--release"]);
        process::run(build.args(example).stdout(Stdio::null()))?;
    }
    Ok(workspace.release())
}

/// The number of layers, which only a reader of model files can tell.
fn layers_of(programs: &Path, model: &OsString) -> Result<u32> {
    let program = programs.join("shard-node");
    let output = Command::new(&program)
        .arg("inspect")
        .arg(model)
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    ensure!(output.status.success(), "`shard-node inspect {}` failed ({})", model.display(), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let object: Value = serde_json::from_str(text.lines().last().unwrap_or_default().trim())
        .or_else(|_| serde_json::from_str(&text))
        .context("read the output of `shard-node inspect --json`")?;
    let layers =
        object.get("layers").and_then(Value::as_u64).context("`shard-node inspect` gave no `layers`")?;
    u32::try_from(layers).context("read the number of layers")
}

/// Lets the router write the answer, streamed to our stdout unless that is to be `json`; gives its object. `meanwhile`
/// runs while it writes.
fn generate(
    program: &Path,
    args: &DemoArgs,
    json: bool,
    swarm: &Swarm,
    directory: &Path,
    meanwhile: impl FnOnce(),
) -> Result<Value> {
    let mut arguments: Vec<OsString> = vec!["generate".into()];
    // With `=`, so that a prompt may begin with a dash.
    let mut option = |name: &str, value: &str| arguments.push(format!("{name}={value}").into());
    option("--bootstrap", swarm.bootstrap());
    option("--model", swarm.model());
    option("--numerics", &args.numerics);
    option("--max-tokens", &args.max_tokens.to_string());
    option("--temperature", &args.temperature);
    if let Some(seed) = args.seed {
        option("--seed", &seed.to_string());
    }
    match &args.token_ids {
        Some(ids) => option("--token-ids", ids),
        None => option("--prompt", &args.prompt),
    }
    arguments.extend(["--config".into(), swarm::empty_config(directory).into_os_string()]);
    arguments.extend(["--bundle".into(), evidence_file(args, directory).into_os_string()]);
    if args.chat && args.token_ids.is_none() {
        arguments.push("--chat".into());
    }
    if json {
        arguments.push("--json".into());
        let router = Leashed::start(program, &arguments, Stdio::piped(), Stdio::inherit())?;
        meanwhile();
        return read_object(router);
    }
    let report = directory.join("generate.json");
    arguments.extend(["--report".into(), report.clone().into_os_string()]);
    let mut router = Leashed::start(program, &arguments, Stdio::inherit(), Stdio::inherit())?;
    meanwhile();
    let status = router.wait()?;
    ensure!(
        status.success(),
        "`router generate` failed ({status}); logs of the nodes: {}",
        directory.display()
    );
    let text = std::fs::read_to_string(&report).with_context(|| format!("read {}", report.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", report.display()))
}

/// Where the answer's evidence goes.
fn evidence_file(args: &DemoArgs, directory: &Path) -> PathBuf {
    args.bundle.clone().unwrap_or_else(|| directory.join("evidence"))
}

/// The object on the last line of the router's stdout.
fn read_object(mut router: Leashed) -> Result<Value> {
    let mut last = String::new();
    while let Some(line) = router.next_line() {
        if !last.is_empty() {
            eprintln!("{last}");
        }
        last = line;
    }
    let status = router.wait()?;
    if !status.success() {
        bail!("`router generate` failed ({status})");
    }
    serde_json::from_str(&last).with_context(|| format!("read the router's last line {last:?}"))
}

/// What `cargo xtask setup` fetches.
const DEFAULT_MODEL: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
