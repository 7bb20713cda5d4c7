//! How decode speed grows with clients, and what cutting the model into stages costs: a swarm of one node and one of
//! several, asked in turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::Options;
use super::super::client::{Ask, Ending, Told, ask};
use super::super::mix::Length;
use super::super::swarm::Swarm;
use crate::statistics::median;
use crate::tell;

/// Decode speed of one client and of `--clients`, on one node and on `--nodes`.
pub(super) async fn scaling(options: &Options) -> Result<Value> {
    ensure!(options.rounds > 0, "--rounds is positive");
    let one = Swarm::start(&Options { nodes: 1, ..options.clone() }, &[]).await?;
    let several = Swarm::start(options, &[]).await?;
    let (mut single, mut many, mut split) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        let seed = options.seed + u64::from(round);
        let rates = [
            decode_rate(&one, 1, options.tokens, seed).await?,
            decode_rate(&one, options.clients, options.tokens, seed).await?,
            decode_rate(&several, options.clients, options.tokens, seed).await?,
        ];
        tell(&format!("round {round}: {rates:.1?} tokens/s (the first one warms up)"));
        if round > 0 {
            single.push(rates[0]);
            many.push(rates[1]);
            split.push(rates[2]);
        }
    }
    let ratio = |a: &[f64], b: &[f64]| median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>());
    let (batching, stages) = (ratio(&many, &single), ratio(&split, &many));
    Ok(json!({
        "one_client": single,
        "clients": options.clients,
        "many_clients": many,
        "stages": options.nodes,
        "many_clients_over_stages": split,
        "many_to_one": batching,
        "stages_to_one_stage": stages,
        "holds": batching * options.factor >= TIMES_ONE && stages * options.factor >= OF_ONE_STAGE,
    }))
}

/// Tokens a second from the moment when all clients have their first one until the first of them is done.
async fn decode_rate(swarm: &Swarm, clients: usize, tokens: u32, seed: u64) -> Result<f64> {
    let epoch = Instant::now();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let wanted = Ask::draw(Length::of(PROMPT, tokens), swarm.vocab, &mut rng);
        let address = swarm.address;
        running.spawn(async move { ask(address, &wanted, epoch).await });
    }
    let told: Vec<Told> = running.join_all().await;
    if let Some(bad) = told.iter().find(|told| told.end != Ending::Done) {
        anyhow::bail!("an answer ended as {:?}", bad.end);
    }
    let first = told.iter().filter_map(|told| told.tokens.first()).max().context("answers have tokens")?;
    let last = told.iter().filter_map(|told| told.tokens.last()).min().context("answers have tokens")?;
    let span = last.saturating_sub(*first);
    ensure!(
        span > Duration::ZERO,
        "the answers are too short: one ended before another began; raise --tokens"
    );
    let within = told.iter().flat_map(|told| &told.tokens).filter(|&at| at > first && at <= last).count();
    Ok(within as f64 / span.as_secs_f64())
}

const PROMPT: u32 = 16;
/// Speed of 16 clients beside one.
const TIMES_ONE: f64 = 6.0;
/// Speed over the stages beside one stage.
const OF_ONE_STAGE: f64 = 0.9;
