//! How soon clients read a token: from the tail's logits, which are in this process, and from the token's frame in the
//! router, by the router's own histogram.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::http;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::super::Options;
use super::super::report::percentiles;
use super::super::swarm::Swarm;
use super::{PATIENCE, millis};
use crate::statistics::percentile;

/// `--clients` streams at once, of `--tokens` each.
pub(super) async fn lag(options: &Options) -> Result<Value> {
    ensure!(options.toy, "--scenario lag needs --toy: the tail has to be in this process");
    let swarm = Swarm::start(options, &[]).await?;
    let mut clients = JoinSet::new();
    for client in 0..options.clients as u32 {
        let (address, vocab, tokens) = (swarm.address, swarm.vocab, options.tokens);
        clients.spawn(async move { read(address, client, vocab, tokens).await });
    }
    let (mut lags, mut gaps) = (Vec::new(), Vec::new());
    while let Some(client) = clients.join_next().await {
        let (prompt, read) = client??;
        let stamped = swarm.stamps.of(prompt + options.tokens);
        // One event for each token, one for the finish, and the last.
        let counts = (read.len(), stamped.len() + 2);
        ensure!(counts.0 == counts.1, "{} events, {} were to come", counts.0, counts.1);
        lags.extend(read.iter().zip(&stamped).map(|(read, at)| millis(read.saturating_duration_since(*at))));
        gaps.extend(read.windows(2).map(|pair| millis(pair[1] - pair[0])));
    }
    let buckets = swarm.router_histogram("router_token_handover_seconds")?;
    let (_, all) = *buckets.last().context("the router counts its tokens")?;
    let bound = MOST_SECONDS * options.factor;
    let within = |bound: f64| {
        let (_, count) = buckets.iter().rev().find(|(other, _)| *other <= bound).copied().unwrap_or_default();
        count / all
    };
    let stall = percentile(&gaps, 1.0);
    // The bucket that the 99th percentile lies in.
    let p99 = buckets.iter().find(|(_, count)| *count >= 0.99 * all).map(|(bound, _)| bound * 1000.0);
    Ok(json!({
        "clients": options.clients,
        "tail_to_client_ms": percentiles(&lags),
        "p99_in_router_within_ms": p99,
        "share_in_router_within_5_ms": within(MOST_SECONDS),
        "gap_ms": percentiles(&gaps),
        "longest_gap_ms": stall,
        "holds": within(bound) >= 0.99 && stall <= millis(STALL) * options.factor,
    }))
}

/// Reads one stream; gives its prompt's length and the times of its events.
async fn read(
    address: std::net::SocketAddr,
    client: u32,
    vocab: u32,
    tokens: u32,
) -> Result<(u32, Vec<Instant>)> {
    // Of a length of its own, by which the tail's stamps are found.
    let prompt: Vec<u32> = (0..=client).map(|at| (client + at * (client / vocab + 1)) % vocab).collect();
    let body = json!({"model": "toy", "prompt": prompt, "max_tokens": tokens, "stream": true});
    let answer = http::post(address, "/v1/completions", &body).await?;
    if answer.status != 200 {
        anyhow::bail!("{}", answer.text().await?);
    }
    let (mut events, mut read) = (answer.events(), Vec::new());
    while let Some(event) = timeout(PATIENCE, events.next()).await.context("a stream stands still")?? {
        read.push(Instant::now());
        if event.data == "[DONE]" {
            break;
        }
    }
    Ok((prompt.len() as u32, read))
}

const MOST_SECONDS: f64 = 0.005;
/// Between two events of a stream: several steps.
const STALL: Duration = Duration::from_secs(1);
