//! The scenarios that must hold. Each gives its figures, its limits and whether they hold; `--factor` widens the limits
//! of time for machines that do other things as well.

mod burst;
mod cost;
mod lag;
mod overload;
mod scaling;
mod slow;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::http;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::arrivals::{Arrivals, Load};
use super::client::Ask;
use super::mix::{Length, Mix};
use super::report::percentiles;
use super::swarm::Swarm;
use super::{Options, Scenario};
use crate::statistics::percentile;
use crate::tell;

/// Runs one scenario; gives its figures and whether what must hold does.
pub(super) async fn play(scenario: Scenario, options: &Options) -> Result<Value> {
    match scenario {
        Scenario::Cancel => cancel(options).await,
        Scenario::SlowReader => slow::slow_reader(options).await,
        Scenario::Overload => overload::overload(options).await,
        Scenario::PrefillBurst => burst::prefill_burst(options).await,
        Scenario::Scaling => scaling::scaling(options).await,
        Scenario::Streaming => cost::streaming(options).await,
        Scenario::Idle => cost::idle(options).await,
        Scenario::Lag => lag::lag(options).await,
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
    let limit = (200.0 + options.slack_ms) * options.factor;
    Ok(json!({"freed_ms": percentiles(&freed), "limit_ms": limit, "holds": worst <= limit}))
}

/// As many clients as asked for, decoding without a break.
fn steady(options: &Options, swarm: &Swarm) -> Load {
    Load {
        address: swarm.address,
        arrivals: Arrivals::Closed(options.clients),
        duration: options.duration(),
        mix: Mix::only(Length::of(PROMPT, options.tokens)),
        texts: None,
        vocab: swarm.vocab,
        seed: options.seed,
        tenants: options.tenants,
    }
}

/// Tokens of a short prompt.
const PROMPT: u32 = 16;
const CANCELS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(30);

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
