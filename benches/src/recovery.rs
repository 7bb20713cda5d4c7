//! What a client sees of a node killed behind a long prompt, and what it costs to be ready for that: nodes that hold
//! the rows they have sent on, nodes that hold none, and nodes that stand by, alternating.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use cluster_tests::http;
use cluster_tests::processes::{NodeProcess, Programs};
use cluster_tests::serving::Serving;
use cluster_tests::watched::until_known;
use serde_json::{Value, json};

use crate::statistics::{median, percentile};
use crate::usage::usage;
use crate::{leash, print_result, tell};

/// Options of `recovery`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Nodes killed for each of the two
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 1500)]
    prompt: u32,
    /// Tokens of the answer before the kill, and again as many after it
    #[arg(long, default_value_t = 128)]
    tokens: usize,
}

/// Two nodes each.
const SPANS: [&str; 6] = ["0..10", "10..20", "20..30", "0..10", "10..20", "20..30"];
const VICTIM: &str = "10..20";

/// What is made ready for a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// Nodes hold the rows that they have sent on.
    Held,
    /// They hold none.
    None,
    /// They hold them, and other nodes stand by.
    Standby,
}

/// One answer.
#[derive(Debug)]
struct Seen {
    gap: f64,
    tokens_per_second: f64,
    /// Of all nodes together, while tokens came and nobody had died.
    cpu_ms_per_token: f64,
    replayed: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let programs = leash::programs()?;
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..3 * options.rounds {
        // Which comes first alternates too.
        let ready = [Ready::Held, Ready::None, Ready::Standby][(round + round / 3) % 3];
        let one = runtime.block_on(killed(&programs, options, ready))?;
        tell(&format!("{ready:?}: {one:?}"));
        seen[ready as usize].push(one);
    }
    let of = |seen: &[Seen], value: fn(&Seen) -> f64| seen.iter().map(value).collect::<Vec<_>>();
    let told = |seen: &[Seen]| {
        json!({
            "gap_seconds_p50": median(&of(seen, |one| one.gap)),
            "gap_seconds_max": percentile(&of(seen, |one| one.gap), 1.0),
            "tokens_per_second_p50": median(&of(seen, |one| one.tokens_per_second)),
            "cpu_ms_per_token_p50": median(&of(seen, |one| one.cpu_ms_per_token)),
            "replayed_rows_p50": median(&of(seen, |one| one.replayed)),
        })
    };
    let [held, none, standby] = &seen;
    let speed = |seen: &[Seen]| median(&of(seen, |one| one.tokens_per_second));
    let cpu = |seen: &[Seen]| median(&of(seen, |one| one.cpu_ms_per_token));
    print_result(&json!({
        "bench": "recovery",
        "rounds": options.rounds,
        "prompt_tokens": options.prompt,
        "held": told(held),
        "none_held": told(none),
        "standby": told(standby),
        "cpu_held_to_none": cpu(held) / cpu(none),
        "cpu_standby_to_held": cpu(standby) / cpu(held),
        "speed_standby_to_held": speed(standby) / speed(held),
        "speed_held_to_none": speed(held) / speed(none),
    }));
    Ok(())
}

/// An answer during which a node of the middle is killed.
async fn killed(programs: &Programs, options: &Options, ready: Ready) -> Result<Seen> {
    let home = tempfile::tempdir()?;
    let model = programs.model()?;
    let mut nodes: Vec<(&str, NodeProcess)> = Vec::new();
    for span in SPANS {
        let mut arguments: Vec<OsString> =
            vec!["--model".into(), model.clone().into(), "--layers".into(), span.into()];
        if ready == Ready::None {
            arguments.extend(["--boundary-bytes", "0"].map(OsString::from));
        }
        if let Some((_, first)) = nodes.first() {
            arguments.extend(["--bootstrap".into(), first.ready().target().into()]);
        }
        nodes.push((span, programs.node(home.path(), &arguments)?));
    }
    let arguments: &[&str] = if ready == Ready::Standby { &["--standby"] } else { &[] };
    let router = Serving::start(programs, home.path(), &nodes[0].1.ready().target(), arguments)?;
    until_known(&router, nodes.len()).await;
    // What repeats goes on repeating, and does not end.
    let prompt: Vec<u32> = (0..options.prompt).map(|at| 100 + at % 50 * 7).collect();
    let wanted = 2 * options.tokens;
    let request = json!({"token_ids": prompt, "max_tokens": wanted, "stream": true});
    let answer = http::post(router.listen, "/v1/generate", &request).await?;
    ensure!(answer.status == 200, "status {}", answer.status);
    let mut events = answer.events();
    let mut times: Vec<Instant> = Vec::new();
    let (mut dead, mut used_before, mut used) = (None, 0.0, 0.0);
    loop {
        let event = events.next().await?.context("an answer has an end")?;
        let object: Value = serde_json::from_str(&event.data)?;
        ensure!(event.name != "error", "{object}");
        if event.name == "done" {
            break;
        }
        let came = object["token_ids"].as_array().map_or(0, Vec::len);
        if times.is_empty() && came > 0 {
            // From the first token on: the prompt's cost is not a token's.
            used_before = cpu_of(&mut nodes)?;
        }
        times.extend(std::iter::repeat_n(now(), came));
        if dead.is_none() && times.len() >= options.tokens {
            let count = |node: &NodeProcess, name| node.metric(name).unwrap_or_default() as i64;
            let sessions = |node: &NodeProcess| {
                count(node, "shard_node_sessions") - count(node, "shard_node_standby_sessions")
            };
            let of_span = (0..nodes.len()).filter(|&node| nodes[node].0 == VICTIM);
            let busiest =
                of_span.max_by_key(|&node| sessions(&nodes[node].1)).context("a node of the span")?;
            used = (cpu_of(&mut nodes)? - used_before) / times.len() as f64;
            let (_, mut victim) = nodes.remove(busiest);
            victim.running().kill_hard()?;
            dead = Some((times.len(), victim));
        }
    }
    let (at, _victim) = dead.context("the answer was too short")?;
    ensure!(times.len() == wanted, "{} tokens came of {wanted}", times.len());
    let gap = times[at - 1..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::ZERO);
    let before = (times[at - 1] - times[0]).as_secs_f64();
    let mut replayed = 0.0;
    for (_, node) in &nodes {
        replayed += node.metric("shard_node_replayed_rows_total")?;
    }
    let (gap, tokens_per_second) = (gap.as_secs_f64(), (at - 1) as f64 / before);
    Ok(Seen { gap, tokens_per_second, cpu_ms_per_token: used * 1e3, replayed })
}

/// Seconds of all nodes.
fn cpu_of(nodes: &mut [(&str, NodeProcess)]) -> Result<f64> {
    nodes.iter_mut().map(|(_, node)| Ok(usage(node.running().pid())?.cpu)).sum()
}

#[expect(clippy::disallowed_methods, reason = "gaps are what is measured")]
fn now() -> Instant {
    Instant::now()
}
