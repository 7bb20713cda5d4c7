//! What steady clients notice of long prompts.

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
        let (mut spans, mut ends): (Vec<(Duration, Duration)>, Vec<Told>) = (Vec::new(), Vec::new());
        while epoch.elapsed() < duration {
            let long = Ask::draw(Length::of(tokens, 1), vocab, &mut rng);
            let told = ask(address, &long, epoch).await;
            if told.end == Ending::Done {
                spans.push((told.sent, epoch.elapsed()));
            }
            ends.push(told);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        (spans, ends)
    });
    let before = prefill_steps(&swarm)?;
    let told = run(&load).await;
    let (bursts, ends) = bursts.join_next().await.context("bursts end")??;
    let after = prefill_steps(&swarm)?;
    // The mean step of each span that held prompt rows, decode rows beside them, summed over the spans.
    let chunk: f64 = before
        .iter()
        .zip(&after)
        .map(|(before, after)| 1000.0 * (after.0 - before.0) / (after.1 - before.1).max(1.0))
        .sum();
    ensure!(!bursts.is_empty() && chunk > 0.0, "no long prompt was answered");
    let busy: Vec<f64> = told.iter().flat_map(|told| gaps_within(told, &bursts)).collect();
    let mut faults = calm.faults(&[]);
    faults.extend(Samples::of(&told).faults(&[]));
    faults.extend(Samples::of(&ends).faults(&[]));
    let raised = percentile(&busy, 0.99) - percentile(&calm.itl, 0.99);
    Ok(json!({
        "calm": calm.to_json(),
        "itl_ms_during_prefill": percentiles(&busy),
        "prefills": bursts.len(),
        "burst_tokens": options.burst_tokens,
        "chunk_ms_over_spans": chunk,
        "itl_p99_raised_ms": raised,
        "faults": faults,
        "holds": faults.is_empty() && raised <= chunk * options.factor,
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
