//! Clients that hardly read: nodes stand still for them, and nobody else notices.
//!
//! What was generated for them is what the tail sampled beyond the tokens of the others, all of whose answers are
//! whole. Once their sockets and credit are full it may grow by what they read and by nothing else.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster_tests::http::{self, Events};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::super::Options;
use super::super::arrivals::run;
use super::super::client::{Ask, TokenEvent};
use super::super::mix::Length;
use super::super::report::Samples;
use super::super::swarm::Swarm;
use super::{PATIENCE, PROMPT, steady};
use crate::statistics::percentile;
use crate::tell;

/// Steady clients alone, then beside some that take a token now and then.
pub(super) async fn slow_reader(options: &Options) -> Result<Value> {
    let swarm = Swarm::start(options, &[]).await?;
    let load = steady(options, &swarm);
    let alone = Samples::of(&run(&load).await);
    let before = swarm.usage()?.context("the router is ours")?;
    let sampled_before = sampled(&swarm)?;
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(Reader::begin(&swarm, &mut rng).await?);
    }
    let ahead = settled(&swarm, sampled_before).await?;
    tell(&format!("{READERS} slow readers: {ahead} tokens are generated for them, and no more"));

    let (over, end) = watch::channel(false);
    let mut reading = JoinSet::new();
    for reader in readers {
        reading.spawn(reader.nibble(end.clone()));
    }
    let beside = Samples::of(&run(&load).await);
    let generated = sampled(&swarm)? - sampled_before - beside.tokens as f64;
    let after = swarm.usage()?.context("the router is ours")?;
    over.send(true).context("readers read")?;
    let mut readers = Vec::new();
    while let Some(reader) = reading.join_next().await {
        readers.push(reader?.context("a slow reader's stream should still be open")?);
    }
    let taken: u32 = readers.iter().map(|reader| reader.taken).sum();
    // Their streams go on where they stood still, and beyond what was there already.
    let enough = generated as u32 / READERS + BEYOND;
    for reader in &mut readers {
        while reader.taken < enough {
            reader.token().await.context("a slow reader should get on when it reads")?;
        }
    }

    let mut faults = alone.faults(&[]);
    faults.extend(beside.faults(&[]));
    let most = f64::from(READERS * MOST_AHEAD);
    if ahead > most {
        faults.push(format!("{ahead} tokens were generated ahead, {most} at most are held for slow readers"));
    }
    if generated > ahead + f64::from(taken) {
        faults.push(format!("{generated} tokens were generated where {ahead} were and {taken} were read"));
    }
    let grown = after.resident - before.resident;
    let ratio = |q| percentile(&beside.itl, q) / percentile(&alone.itl, q);
    let holds = faults.is_empty()
        && ratio(0.5) <= SLOWER * options.factor
        && ratio(0.99) <= SLOWER_P99 * options.factor
        && grown < MOST_BYTES;
    Ok(json!({
        "alone": alone.to_json(),
        "beside_slow_readers": beside.to_json(),
        "slow_readers": READERS,
        "generated_for_them_when_full": ahead,
        "generated_for_them_at_the_end": generated,
        "read_by_them": taken,
        "itl_p50_ratio": ratio(0.5),
        "itl_p99_ratio": ratio(0.99),
        "grew_bytes": grown,
        "faults": faults,
        "holds": holds,
    }))
}

/// A client that keeps as little unread as the system allows.
#[derive(Debug)]
struct Reader {
    events: Events,
    /// Tokens that it read.
    taken: u32,
}

impl Reader {
    /// Asks, and reads the first token.
    async fn begin(swarm: &Swarm, rng: &mut ChaCha8Rng) -> Result<Self> {
        let wanted = Ask::draw(Length::of(PROMPT, ANSWER), swarm.vocab, rng);
        let answer = http::post_with_little_room(swarm.address, "/v1/generate", &wanted.body()).await?;
        ensure!(answer.status == 200, "{}", answer.text().await?);
        let mut reader = Self { events: answer.events(), taken: 0 };
        reader.token().await?;
        Ok(reader)
    }

    /// Reads the next token.
    async fn token(&mut self) -> Result<()> {
        let event = timeout(PATIENCE, self.events.next()).await.context("no token comes")??;
        let event = event.context("the stream ended without its last event")?;
        if !event.name.is_empty() {
            bail!("after {} tokens: {} {}", self.taken, event.name, event.data);
        }
        let token: TokenEvent = serde_json::from_str(&event.data)?;
        let expected = PROMPT + self.taken;
        ensure!(token.position == expected, "position {}, expected {expected}", token.position);
        self.taken += token.token_ids.len() as u32;
        Ok(())
    }

    /// Reads a token now and then until told otherwise.
    async fn nibble(mut self, mut end: watch::Receiver<bool>) -> Result<Self> {
        while !*end.borrow_and_update() {
            self.token().await?;
            tokio::select! {
                () = sleep(PAUSE) => {}
                changed = end.changed() => changed.context("the scenario goes on")?,
            }
        }
        Ok(self)
    }
}

/// Tokens that were sampled since there were `before`, once they do not grow any more.
async fn settled(swarm: &Swarm, before: f64) -> Result<f64> {
    let (begun, mut known) = (Instant::now(), sampled(swarm)?);
    loop {
        sleep(STILL).await;
        let now = sampled(swarm)?;
        if now <= known {
            return Ok(now - before);
        }
        known = now;
        ensure!(
            begun.elapsed() < PATIENCE,
            "{} tokens for {READERS} clients that do not read, and it goes on",
            now - before
        );
    }
}

/// By the tail, ever.
fn sampled(swarm: &Swarm) -> Result<f64> {
    Ok(swarm.metric("shard_node_sampled_tokens_total")?.iter().sum())
}

const READERS: u32 = 4;
/// Far longer than what is held for a slow reader.
const ANSWER: u32 = 50_000;
/// Between two tokens that a slow reader reads.
const PAUSE: Duration = Duration::from_millis(200);
/// Without a token in this time, nobody generates any more: a step takes milliseconds.
const STILL: Duration = Duration::from_secs(1);
/// Tokens that a slow reader reads beyond what was generated before.
const BEYOND: u32 = 200;
/// Tokens held for each: 64 of credit, and events of some 50 bytes in the router's frame (16 KiB), in its send buffer
/// (64 KiB, which Linux doubles) and in the client's smallest buffer.
const MOST_AHEAD: u32 = 2000;
/// What the others' gaps may grow by beside slow readers, within what two runs of one load differ by.
const SLOWER: f64 = 1.1;
const SLOWER_P99: f64 = 1.25;
/// Of the router beside the slow readers: 64 KiB for each, and what its allocator makes of a second load.
const MOST_BYTES: f64 = READERS as f64 * 65_536.0 + 1e6;
