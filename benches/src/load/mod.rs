//! `benches -- load`: many clients against `router serve`; what they see of it.
//!
//! Every stream is checked: positions without a gap, as many tokens as the router says. The seed decides prompts,
//! lengths and arrivals.

mod arrivals;
mod client;
mod mix;
mod plot;
mod report;
mod scenario;
mod swarm;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::synthetic::{self, Shape};
use crate::{print_result, tell};
use arrivals::{Arrivals, Load};
use mix::Mix;
use report::Samples;
use swarm::Swarm;

/// Options of `load`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// A router that serves already, as http://IP:PORT; without it a swarm is started
    #[arg(long, conflicts_with_all = ["toy", "synthetic", "scenario"])]
    url: Option<String>,
    /// Requests a second on average (open loop, Poisson)
    #[arg(long, conflicts_with = "scenario")]
    rate: Option<f64>,
    /// Clients with one request at a time each (closed loop)
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How long requests are sent, seconds
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Lengths of prompts and answers: JSON lines as in benches/load-mix.jsonl
    #[arg(long, value_name = "FILE")]
    mix: Option<PathBuf>,
    /// Answers of scenarios have so many tokens
    #[arg(long, default_value_t = 128)]
    tokens: u32,
    /// Seed of prompts, lengths and arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tenants that the requests are spread over
    #[arg(long, default_value_t = 1)]
    tenants: u32,
    /// Draw a picture
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Nodes of the swarm that is started
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Their numerics class
    #[arg(long, default_value = "bf16")]
    numerics: String,
    /// Positions of KV of each
    #[arg(long)]
    kv_positions: Option<u64>,
    /// A synthetic model of this shape instead of the real one
    #[arg(long, value_parser = synthetic::parse_shape, conflicts_with = "toy")]
    synthetic: Option<Shape>,
    /// Toy nodes that compute next to nothing: the router is what is measured
    #[arg(long)]
    toy: bool,
    /// A toy step takes at least this long, microseconds
    #[arg(long, default_value_t = 0, requires = "toy")]
    step_us: u64,
    /// Ids of prompts are below this, for --url
    #[arg(long, default_value_t = 1000)]
    vocab: u32,
    /// Play one of the scenarios that must hold
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Tokens of the long prompt of prefill-burst
    #[arg(long, default_value_t = 2000)]
    burst_tokens: u32,
    /// Words of the long prompts of text of overload
    #[arg(long, default_value_t = 1000)]
    text_words: u32,
    /// One step of the swarm, milliseconds: allowed beside the 200 ms of cancel
    #[arg(long, default_value_t = 50.0)]
    slack_ms: f64,
    /// Rounds of scaling, after one that warms up
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Tokens of the prompts of idle
    #[arg(long, default_value_t = 1000)]
    prompt_tokens: u32,
    /// A scenario's limits of time and ratio are widened by this factor
    #[arg(long, default_value_t = 1.0)]
    factor: f64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Scenario {
    /// Clients that go: how soon KV is free on every node
    Cancel,
    /// Clients that hardly read: what the others and the router's memory see of them
    SlowReader,
    /// Ten times the capacity: refusals in time, and the admitted ones undisturbed
    Overload,
    /// Long prompts among steady decodes
    PrefillBurst,
    /// One client and many, over one stage and several
    Scaling,
    /// Streams without a break: the router's processor time for each token
    Streaming,
    /// Sessions that stand still: the router's memory for each
    Idle,
    /// Streams of `/v1/completions`: from a token at the tail, and in the router, to the client
    Lag,
}

impl Options {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.seconds > 0.0 && options.seconds < 1e6, "--seconds is positive");
    ensure!(options.rate.is_none_or(|rate| rate > 0.0 && rate < 1e6), "--rate is positive");
    ensure!(options.factor >= 1.0 && options.factor < 100.0, "--factor is at least 1");
    tell(&format!("seed {}", options.seed));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut result = match options.scenario {
            Some(scenario) => scenario::play(scenario, options).await?,
            None => plain(options).await?,
        };
        result["bench"] = json!("load");
        result["scenario"] = json!(options.scenario.map(|scenario| format!("{scenario:?}")));
        result["seed"] = json!(options.seed);
        print_result(&result);
        ensure!(result["holds"] != json!(false), "what must hold does not: see the figures above");
        Ok(())
    })
}

async fn plain(options: &Options) -> Result<serde_json::Value> {
    let swarm = match &options.url {
        Some(url) => Swarm::there(url, options.vocab)?,
        None => Swarm::start(options, &[]).await?,
    };
    let arrivals = options.rate.map_or(Arrivals::Closed(options.clients), Arrivals::Open);
    let load = Load {
        address: swarm.address,
        arrivals,
        duration: options.duration(),
        mix: Mix::read(options.mix.as_deref())?,
        texts: None,
        vocab: swarm.vocab,
        seed: options.seed,
        tenants: options.tenants,
    };
    let before = swarm.usage()?;
    let told = arrivals::run(&load).await;
    let after = swarm.usage()?;
    let samples = Samples::of(&told);
    if let Some(path) = &options.plot {
        let title = format!("load: {arrivals}, {} s, seed {}", options.seconds, options.seed);
        std::fs::write(path, plot::svg(&title, &told))
            .with_context(|| format!("write {}", path.display()))?;
    }
    let mut result = samples.to_json();
    result["arrivals"] = json!(arrivals.to_string());
    if let Some((before, after)) = before.zip(after) {
        result["cpu_us_per_token"] = json!((after.cpu - before.cpu) * 1e6 / samples.tokens as f64);
        result["cpu_share"] = json!((after.cpu - before.cpu) / samples.seconds);
        result["resident_bytes"] = json!(after.resident);
        if let Arrivals::Closed(clients) = arrivals {
            result["bytes_per_client"] = json!((after.resident - before.resident) / clients as f64);
        }
    }
    if !samples.broken.is_empty() {
        tell(&format!("broken streams; the router's log: {}", swarm.router_log()));
    }
    Ok(result)
}
