//! One stage as a process that is asked for measurements, line by line: the engine's side of
//! `cargo run --release -p benches -- engine`, which may not link libtorch.
//!
//! `stage_speed [MODEL --numerics CLASS --threads N]`. It loads the model, prints one JSON object, then
//! answers each line of stdin with one JSON object: `decode SESSIONS`, `prefill ROWS CHUNK`, `memory`, `limit`. Without
//! a model it knows `limit` only. It ends when stdin does.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring program: prints and reads clocks"
)]

#[path = "../read_limit/mod.rs"]
mod read_limit;
mod steps;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use proto::LayerSpan;
use proto::tensor::NumericsClass;
use serde_json::{Value, json};
use shard_node_engine::{DeviceChoice, EngineOptions, load};
use shard_node_weights::{Checkpoint, inspect, manifest, span_tensors};

use steps::Steps;

#[derive(Parser, Debug)]
struct Options {
    /// A GGUF file or an HF directory
    model: Option<PathBuf>,
    #[arg(long, default_value = "bf16")]
    numerics: NumericsClass,
    /// Compute threads; the engine's choice by default
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut steps = match &options.model {
        Some(model) => Some(start(model, &options)?),
        None => None,
    };
    let threads = options.threads.unwrap_or_else(cores);
    let mut words = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words_of_line = line.split_whitespace();
        let what = words_of_line.next().unwrap_or_default();
        let numbers: Vec<u32> = words_of_line
            .map(|number| number.parse().with_context(|| format!("read {line:?}")))
            .collect::<Result<_>>()?;
        let answer = match (what, &numbers[..], &mut steps) {
            ("limit", [], _) => {
                if words.is_empty() {
                    words = read_limit::words();
                }
                json!({ "bytes_per_second": read_limit::read_limit(&words, threads, 4) })
            }
            ("decode", &[sessions], Some(steps)) => json!({ "seconds": steps.decode(sessions)? }),
            ("prefill", &[rows, chunk], Some(steps)) => json!({ "seconds": steps.prefill(rows, chunk)? }),
            ("memory", [], Some(steps)) => {
                let mut answer = memory()?;
                answer["kv_bytes"] = steps.kv_bytes().into();
                answer
            }
            _ => bail!(
                "{line:?} is not a measurement: use decode SESSIONS, prefill ROWS CHUNK, memory or limit"
            ),
        };
        println!("{answer}");
    }
    Ok(())
}

/// Loads as a node does, every tensor held against the manifest, and prints what that took.
fn start(model: &Path, options: &Options) -> Result<Steps> {
    let checkpoint = Checkpoint::open(model)?;
    let architecture = checkpoint.architecture()?;
    let span = LayerSpan::new(0, architecture.n_layers)?;
    let begun = Instant::now();
    // Reads the whole file, so that loading finds it in the page cache.
    let described = manifest::compute(&checkpoint, |_, _| ())?;
    let manifest_seconds = begun.elapsed().as_secs_f64();
    let mut stored_bytes = 0;
    for (name, _) in span_tensors(&architecture, span) {
        stored_bytes += checkpoint.tensor(&name)?.stored_bytes();
    }
    drop(checkpoint);
    let resident_before = memory()?["resident_bytes"].clone();
    let engine = EngineOptions {
        model: model.to_owned(),
        manifest: Some(Arc::new(described.manifest)),
        span,
        class: options.numerics,
        device: DeviceChoice::Cpu,
        threads: options.threads,
    };
    let begun = Instant::now();
    let stage = load(&engine, |_| ())?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut loaded = memory()?;
    loaded["resident_before_bytes"] = resident_before;
    loaded["seconds"] = seconds.into();
    loaded["manifest_seconds"] = manifest_seconds.into();
    loaded["stored_bytes"] = stored_bytes.into();
    let footprints = inspect(&Checkpoint::open(model)?)?.classes;
    let footprint = footprints.iter().find(|footprint| footprint.class == options.numerics.name());
    let footprint = footprint.context("the class has no footprint")?;
    // A decode step reads all layers and the head; a stage holds the embedding too.
    loaded["decode_bytes"] = (footprint.all_layers_bytes + footprint.head_bytes).into();
    loaded["held_bytes"] = footprint.whole_bytes(&architecture).into();
    println!("{loaded}");
    Ok(Steps::new(stage))
}

/// Resident memory now and at its largest.
fn memory() -> Result<Value> {
    let status = std::fs::read_to_string("/proc/self/status").context("read our own status")?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        let kilobytes = line.split_whitespace().next().context("no number")?;
        Ok(kilobytes.parse::<u64>()? * 1024)
    };
    Ok(json!({ "resident_bytes": field("VmRSS:")?, "peak_bytes": field("VmHWM:")? }))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
