//! What streams cost the router: processor time for each token, memory for each session.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::http;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::super::Options;
use super::super::arrivals::run;
use super::super::client::Ask;
use super::super::mix::Length;
use super::super::report::Samples;
use super::super::swarm::Swarm;
use super::steady;

/// `--clients` that decode without a break: processor time of the router's process for each token.
pub(super) async fn streaming(options: &Options) -> Result<Value> {
    let swarm = Swarm::start(options, &[]).await?;
    let before = swarm.usage()?.context("the router is ours")?;
    let samples = Samples::of(&run(&steady(options, &swarm)).await);
    let after = swarm.usage()?.context("the router is ours")?;
    ensure!(samples.done > 0, "no answer was finished: {:?}", samples.faults(&[]));
    let each = (after.cpu - before.cpu) * 1e6 / samples.tokens as f64;
    Ok(json!({
        "streams": samples.to_json(),
        "cpu_us_per_token": each,
        "cpu_share": (after.cpu - before.cpu) / samples.seconds,
        "resident_bytes": after.resident,
        "faults": samples.faults(&[]),
        "holds": each <= MOST_CPU_US * options.factor && samples.faults(&[]).is_empty(),
    }))
}

/// `--clients` streams whose clients read one token and then nothing more, each after a prompt of `--prompt-tokens`.
pub(super) async fn idle(options: &Options) -> Result<Value> {
    let swarm = Swarm::start(options, &[]).await?;
    let before = swarm.usage()?.context("the router is ours")?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut streams = Vec::with_capacity(options.clients);
    for _ in 0..options.clients {
        let wanted = Ask::draw(Length::of(options.prompt_tokens, ANSWER), swarm.vocab, &mut rng);
        let answer = http::post_with_little_room(swarm.address, "/v1/generate", &wanted.body()).await?;
        ensure!(answer.status == 200, "{}", answer.text().await?);
        let mut events = answer.events();
        events.next().await?.context("an answer has tokens")?;
        streams.push(events);
    }
    // Until credit and sockets are full.
    let mut used = swarm.usage()?.context("the router is ours")?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = swarm.usage()?.context("the router is ours")?;
        if now.cpu - used.cpu < STILL {
            break;
        }
        used = now;
    }
    let after = swarm.usage()?.context("the router is ours")?;
    let each = (after.resident - before.resident) / streams.len() as f64;
    Ok(json!({
        "sessions": streams.len(),
        "prompt_tokens": options.prompt_tokens,
        "resident_bytes": after.resident,
        "bytes_per_session": each,
        "holds": each <= MOST_BYTES,
    }))
}

/// Longer than what credit and sockets hold.
const ANSWER: u32 = 50_000;
/// Processor time in a second, seconds, of a router whose sessions stand still.
const STILL: f64 = 0.05;
const MOST_BYTES: f64 = 65_536.0;
const MOST_CPU_US: f64 = 50.0;
