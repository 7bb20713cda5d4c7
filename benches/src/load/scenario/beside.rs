//! What steady clients notice of others: of one that hardly reads, and of long prompts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::Options;
use super::super::arrivals::run;
use super::super::client::{Ask, Ending, Told, ask};
use super::super::mix::Length;
use super::super::report::{Samples, gaps, percentiles};
use super::super::swarm::Swarm;
use super::steady;
use crate::statistics::percentile;

/// Steady clients beside one that takes a byte now and then.
pub(super) async fn slow_reader(options: &Options) -> Result<Value> {
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
    let ratio = |q| percentile(&beside.itl, q) / percentile(&alone.itl, q);
    let holds = beside.broken.is_empty()
        && ratio(0.5) <= SLOWER * options.factor
        && ratio(0.99) <= SLOWER_P99 * options.factor
        && grown.is_none_or(|grown| grown < SLOW_READER_BYTES);
    Ok(json!({
        "alone": alone.to_json(),
        "beside_a_slow_reader": beside.to_json(),
        "itl_p50_ratio": ratio(0.5),
        "itl_p99_ratio": ratio(0.99),
        "grew_bytes": grown,
        "holds": holds,
    }))
}

/// A long prompt among steady decodes: how much longer the others' slowest tokens take.
pub(super) async fn prefill_burst(options: &Options) -> Result<Value> {
    let swarm = Swarm::start(options, &[]).await?;
    let load = steady(options, &swarm);
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
            if told.end == Ending::Done {
                spans.push((told.sent, epoch.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        spans
    });
    let before = prefill_steps(&swarm)?;
    let told = run(&load).await;
    let bursts = bursts.join_next().await.context("bursts end")??;
    let after = prefill_steps(&swarm)?;
    // The mean step of each span that held prompt rows, decode rows beside them, summed over the spans.
    let chunk: f64 = before
        .iter()
        .zip(&after)
        .map(|(before, after)| 1000.0 * (after.0 - before.0) / (after.1 - before.1).max(1.0))
        .sum();
    ensure!(!bursts.is_empty() && chunk > 0.0, "no long prompt was answered");
    let busy: Vec<f64> = told.iter().flat_map(|told| gaps_within(told, &bursts)).collect();
    let raised = percentile(&busy, 0.99) - percentile(&calm.itl, 0.99);
    Ok(json!({
        "calm": calm.to_json(),
        "itl_ms_during_prefill": percentiles(&busy),
        "prefills": bursts.len(),
        "burst_tokens": options.burst_tokens,
        "chunk_ms_over_spans": chunk,
        "itl_p99_raised_ms": raised,
        "holds": raised <= chunk * options.factor,
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

/// What the others' gaps may grow by beside a slow reader, within what two runs of one load differ by.
const SLOWER: f64 = 1.1;
const SLOWER_P99: f64 = 1.25;
/// Of the router beside a slow reader: buffers, not answers.
const SLOW_READER_BYTES: f64 = 4e6;
