//! When requests are sent: closed-loop (so many clients, each with one request at a time) or open-loop (a Poisson
//! process that does not wait for answers).

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::client::{Ask, Ending, Told, Word, ask};
use super::mix::Mix;

/// How requests arrive.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Arrivals {
    /// So many clients, one request at a time each.
    Closed(usize),
    /// So many requests a second on average.
    Open(f64),
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(clients) => write!(f, "{clients} clients, one request at a time each"),
            Self::Open(rate) => write!(f, "{rate} requests/s as they come"),
        }
    }
}

/// One run's parameters.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) arrivals: Arrivals,
    /// Requests are sent for this long; those under way then are finished.
    pub(crate) duration: Duration,
    pub(crate) mix: Mix,
    /// Every second request has a prompt of text.
    pub(crate) texts: Option<Texts>,
    pub(crate) vocab: u32,
    pub(crate) seed: u64,
    /// Requests are spread over so many tenants.
    pub(crate) tenants: u32,
}

/// Prompts of text.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    pub(crate) word: Word,
    /// Their lengths in words.
    pub(crate) mix: Mix,
}

/// Requests under way at once in an open-loop run: beyond it the generator itself would be what is measured.
const MAX_OPEN: usize = 4096;

/// Sends requests and gives what came of all of them, ordered by the time they were sent.
pub(crate) async fn run(load: &Load) -> Vec<Told> {
    let epoch = Instant::now();
    let mut told = match load.arrivals {
        Arrivals::Closed(clients) => closed(load, clients, epoch).await,
        Arrivals::Open(rate) => open(load, rate, epoch).await,
    };
    told.sort_by_key(|told| told.sent);
    told
}

async fn closed(load: &Load, clients: usize, epoch: Instant) -> Vec<Told> {
    let mut running = JoinSet::new();
    for client in 0..clients {
        let load = load.clone();
        running.spawn(async move {
            let mut rng = ChaCha8Rng::seed_from_u64(load.seed.wrapping_mul(1_000_003) + client as u64);
            let mut all = Vec::new();
            while epoch.elapsed() < load.duration {
                let wanted = wanted(&load, client as u64, &mut rng);
                let told = ask(load.address, &wanted, epoch).await;
                // A client that is refused comes back a little later, as it is told to.
                if told.tokens.is_empty() {
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                all.push(told);
            }
            all
        });
    }
    let mut all = Vec::new();
    while let Some(told) = running.join_next().await {
        all.extend(told.unwrap_or_default());
    }
    all
}

async fn open(load: &Load, rate: f64, epoch: Instant) -> Vec<Told> {
    let mut rng = ChaCha8Rng::seed_from_u64(load.seed);
    let mut running: JoinSet<Told> = JoinSet::new();
    let mut all = Vec::new();
    let mut next = epoch;
    let mut number = 0;
    loop {
        // Exponential gaps make a Poisson process.
        let gap = -(1.0 - rng.random::<f64>()).ln() / rate;
        next += Duration::from_secs_f64(gap);
        if next.duration_since(epoch) >= load.duration {
            break;
        }
        sleep_until(next).await;
        while let Some(told) = running.try_join_next() {
            all.extend(told);
        }
        if running.len() >= MAX_OPEN {
            all.extend(running.join_next().await.and_then(Result::ok));
        }
        let wanted = wanted(load, number, &mut rng);
        number += 1;
        let address = load.address;
        // A generator that is late must not make answers look faster than a client saw them.
        let due = next.duration_since(epoch);
        running.spawn(async move {
            let mut told = ask(address, &wanted, epoch).await;
            if let Ending::Problem { after, .. } = &mut told.end {
                *after += told.sent.saturating_sub(due);
            }
            told.sent = due;
            told
        });
    }
    while let Some(told) = running.join_next().await {
        all.extend(told);
    }
    all
}

/// A request of the client, or arrival, of this number.
fn wanted(load: &Load, number: u64, rng: &mut ChaCha8Rng) -> Ask {
    let mut wanted = match &load.texts {
        Some(texts) if rng.random_bool(0.5) => {
            Ask::draw_text(texts.mix.draw(rng), texts.word, load.vocab, rng)
        }
        _ => Ask::draw(load.mix.draw(rng), load.vocab, rng),
    };
    wanted.tenant = format!("tenant-{}", number % u64::from(load.tenants.max(1)));
    wanted
}

const REFUSED_PAUSE: Duration = Duration::from_millis(50);
