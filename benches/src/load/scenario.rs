//! The scenarios that must hold: cancel, slow reader, overload, a long prefill among others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::http;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::arrivals::{Arrivals, Load, run};
use super::client::{Ask, Told, ask};
use super::mix::{Length, Mix};
use super::report::{Samples, gaps, percentiles};
use super::swarm::Swarm;
use super::{Options, Scenario};
use crate::statistics::percentile;
use crate::tell;

/// Runs one scenario; gives its figures and whether what must hold does.
pub(super) async fn play(scenario: Scenario, options: &Options) -> Result<Value> {
    match scenario {
        Scenario::Cancel => cancel(options).await,
        Scenario::SlowReader => slow_reader(options).await,
        Scenario::Overload => overload(options).await,
        Scenario::PrefillBurst => prefill_burst(options).await,
    }
}

/// Clients that go in the middle of an answer: how long until every node has its KV back.
async fn cancel(options: &Options) -> Result<Value> {
    let swarm = Swarm::start(options, &[]).await?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut freed = Vec::new();
    for round in 0..CANCELS {
        let wanted = Ask::draw(Length::of(16, 2000), swarm.vocab, &mut rng);
        let answer = http::post(swarm.address, "/v1/generate", &wanted.body()).await?;
        ensure!(answer.status == 200, "{}", answer.text().await?);
        let mut events = answer.events();
        for _ in 0..10 {
            events.next().await?.context("the answer is longer")?;
        }
        ensure!(swarm.kv_reserved()?.iter().all(|&positions| positions > 0.0), "KV is reserved on all nodes");
        let gone = Instant::now();
        drop(events);
        while swarm.kv_reserved()?.iter().any(|&positions| positions > 0.0) {
            ensure!(gone.elapsed() < PATIENCE, "KV is not freed: {:?}", swarm.kv_reserved()?);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        freed.push(millis(gone.elapsed()));
        tell(&format!("round {round}: freed after {:.1} ms", freed[freed.len() - 1]));
    }
    let worst = percentile(&freed, 1.0);
    Ok(
        json!({"freed_ms": percentiles(&freed), "limit_ms": "200 and one step", "holds": worst <= 200.0 + options.slack_ms}),
    )
}

/// Steady clients beside one that takes a byte now and then.
async fn slow_reader(options: &Options) -> Result<Value> {
    let swarm = Swarm::start(options, &[]).await?;
    let load = steady(options, &swarm);
    let alone = Samples::of(&run(&load).await);
    let before = swarm.usage()?;
    let mut slow = Ask::draw(Length::of(16, 2000), swarm.vocab, &mut ChaCha8Rng::seed_from_u64(options.seed));
    slow.pause = Duration::from_secs(1);
    let address = swarm.address;
    let mut readers = JoinSet::new();
    readers.spawn(async move { ask(address, &slow, Instant::now()).await });
    let beside = Samples::of(&run(&load).await);
    let after = swarm.usage()?;
    readers.shutdown().await;
    let grown = before.zip(after).map(|(before, after)| after.resident - before.resident);
    let ratio = percentile(&beside.itl, 0.99) / percentile(&alone.itl, 0.99);
    Ok(json!({
        "alone": alone.to_json(),
        "beside_a_slow_reader": beside.to_json(),
        "itl_p99_ratio": ratio,
        "grew_bytes": grown,
        "holds": beside.broken.is_empty() && grown.is_none_or(|grown| grown < 4e6),
    }))
}

/// Ten times as many requests as can be served.
async fn overload(options: &Options) -> Result<Value> {
    let clients = options.clients.to_string();
    let swarm = Swarm::start(options, &["--sessions-per-node", &clients, "--queue", &clients]).await?;
    let load = steady(options, &swarm);
    let at_capacity = Samples::of(&run(&load).await);
    let rate = OVERLOAD * at_capacity.done as f64 / at_capacity.seconds;
    tell(&format!("at capacity: {:.1} requests/s; now {rate:.1}", rate / OVERLOAD));
    let overloaded = Samples::of(&run(&Load { arrivals: Arrivals::Open(rate), ..load }).await);
    let ratio = |q| percentile(&overloaded.itl, q) / percentile(&at_capacity.itl, q);
    let refused_late = percentile(&overloaded.refusal, 0.99);
    let holds = refused_late <= 50.0
        && overloaded.without_hint == 0
        && overloaded.broken.is_empty()
        && ratio(0.5) <= 1.5;
    Ok(json!({
        "at_capacity": at_capacity.to_json(),
        "overloaded": overloaded.to_json(),
        "offered_requests_per_second": rate,
        "itl_p50_ratio": ratio(0.5),
        "itl_p99_ratio": ratio(0.99),
        "refusal_ms_p99": refused_late,
        "holds": holds,
    }))
}

/// A long prompt among steady decodes: how much longer the others' slowest tokens take.
async fn prefill_burst(options: &Options) -> Result<Value> {
    let swarm = Swarm::start(options, &[]).await?;
    let load = steady(options, &swarm);
    // A prefill alone: its chunks' time on all spans.
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let long = Ask::draw(Length::of(options.burst_tokens, 1), swarm.vocab, &mut rng);
    let before = prefill_steps(&swarm)?;
    let told = ask(swarm.address, &long, Instant::now()).await;
    ensure!(!told.tokens.is_empty(), "the long prompt is answered: {:?}", told.end);
    let after = prefill_steps(&swarm)?;
    // The mean step of each span that held prompt rows, summed over the spans.
    let chunk: f64 = before
        .iter()
        .zip(&after)
        .map(|(before, after)| 1000.0 * (after.0 - before.0) / (after.1 - before.1).max(1.0))
        .sum();
    let calm = Samples::of(&run(&load).await);
    let address = swarm.address;
    let mut bursts = JoinSet::new();
    let seed = options.seed;
    let (vocab, tokens, duration) = (swarm.vocab, options.burst_tokens, load.duration);
    bursts.spawn(async move {
        let epoch = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(seed + 1);
        let mut spans: Vec<(Duration, Duration)> = Vec::new();
        while epoch.elapsed() < duration {
            let long = Ask::draw(Length::of(tokens, 1), vocab, &mut rng);
            let told = ask(address, &long, epoch).await;
            spans.push((told.sent, epoch.elapsed()));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        spans
    });
    let told = run(&load).await;
    let bursts = bursts.join_next().await.context("bursts end")??;
    let busy: Vec<f64> = told.iter().flat_map(|told| gaps_within(told, &bursts)).collect();
    let raised = percentile(&busy, 0.99) - percentile(&calm.itl, 0.99);
    Ok(json!({
        "calm": calm.to_json(),
        "itl_ms_during_prefill": percentiles(&busy),
        "prefills": bursts.len(),
        "burst_tokens": options.burst_tokens,
        "chunk_ms_over_spans": chunk,
        "itl_p99_raised_ms": raised,
        "holds": raised <= chunk,
    }))
}

/// Gaps that ended while a long prompt was computed.
fn gaps_within<'a>(told: &'a Told, spans: &'a [(Duration, Duration)]) -> impl Iterator<Item = f64> + 'a {
    gaps(told)
        .zip(told.tokens.iter().skip(1))
        .filter_map(move |(gap, at)| spans.iter().any(|(from, to)| (from..=to).contains(&at)).then_some(gap))
}

/// Sum and count of each node's prefill steps.
fn prefill_steps(swarm: &Swarm) -> Result<Vec<(f64, f64)>> {
    let sums = swarm.metric("shard_node_step_seconds_sum{phase=\"prefill\"}")?;
    Ok(sums.into_iter().zip(swarm.metric("shard_node_step_seconds_count{phase=\"prefill\"}")?).collect())
}

/// As many clients as asked for, decoding without a break.
fn steady(options: &Options, swarm: &Swarm) -> Load {
    Load {
        address: swarm.address,
        arrivals: Arrivals::Closed(options.clients),
        duration: options.duration(),
        mix: Mix::only(Length::of(16, options.tokens)),
        vocab: swarm.vocab,
        seed: options.seed,
        tenants: options.tenants,
    }
}

const CANCELS: usize = 10;
const OVERLOAD: f64 = 10.0;
const PATIENCE: Duration = Duration::from_secs(30);

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
