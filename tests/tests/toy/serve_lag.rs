//! How soon a client has a token after the tail has it, with many clients at once.

use std::sync::mpsc;
use std::time::Duration;

use cluster_tests::http;
use cluster_tests::stamps::Stamps;
use serde_json::json;
use shard_node_stage::StepHook;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::serve::TestServer;
use crate::swarm::{LAYERS, PATIENCE, Settings, ToySwarm, served, word_tokenizer};

const CLIENTS: u32 = 256;
const TOKENS: u32 = 40;
/// Some ten tokens a second for each: faster than people read.
const STEP: Duration = Duration::from_millis(100);
/// From a token's frame in the router to its event on its way to the client, seconds. The issue says 5 ms; nodes and
/// clients are in the same process here, and other tests beside it. The next bound of the histogram.
const LAG: f64 = 0.01;
/// Of a stream: several steps, and what a busy machine adds.
const STALL: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_and_fifty_six_streams_are_read_as_soon_as_their_tokens_are_there() {
    let hook: fn(usize) -> Option<StepHook> = |_| {
        let (keep, never) = mpsc::channel::<()>();
        Some(Box::new(move |_| {
            let _open = &keep;
            let _ = never.recv_timeout(STEP / 4);
            Ok(())
        }))
    };
    let stamps = Stamps::default();
    let base = Settings::split(4);
    let tokenizer = word_tokenizer(base.model.vocab);
    let settings = Settings {
        hook,
        served: served(base.model, &[], Some(&tokenizer)),
        stamps: Some(stamps.clone()),
        kv_positions: Some(1 << 20),
        ..base
    };
    assert_eq!(settings.model.n_layers, LAYERS);
    let swarm = ToySwarm::start(settings).await;
    let server = TestServer::start(&swarm, 100, |config| config.admission.sessions_per_node = CLIENTS).await;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let addr = server.addr;
        clients.spawn(async move {
            // Of a length of its own, by which the tail's stamps are found.
            let prompt: Vec<u32> = (0..=client).map(|at| (client + at * (client / 64 + 1)) % 64).collect();
            let body = json!({"model": "toy", "prompt": prompt, "max_tokens": TOKENS, "stream": true});
            let answer =
                timeout(PATIENCE, http::post(addr, "/v1/completions", &body)).await.unwrap().unwrap();
            assert_eq!(answer.status, 200);
            let (mut events, mut read) = (answer.events(), Vec::new());
            while let Some(event) = timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
                read.push(Instant::now());
                if event.data == "[DONE]" {
                    break;
                }
            }
            (prompt.len() as u32, read)
        });
    }
    let (mut lags, mut stall) = (Vec::new(), Duration::ZERO);
    while let Some(client) = clients.join_next().await {
        let (prompt, read) = client.unwrap();
        // One each, one for the finish, and the last.
        assert_eq!(read.len(), TOKENS as usize + 2);
        let stamped = stamps.of(prompt + TOKENS);
        assert_eq!(stamped.len(), TOKENS as usize);
        lags.extend(
            read.iter().zip(&stamped).map(|(read, stamped)| read.saturating_duration_since(*stamped)),
        );
        let gaps = read.windows(2).map(|pair| pair[1] - pair[0]);
        stall = stall.max(gaps.max().unwrap());
    }
    lags.sort_unstable();
    let of = |percent: usize| lags[lags.len() * percent / 100 - 1];
    eprintln!(
        "{} tokens: p50 {:?}, p99 {:?}, worst {:?}; longest gap {stall:?}",
        lags.len(),
        of(50),
        of(99),
        of(100)
    );
    let within = server.handed_over();
    for (bound, share) in &within {
        eprintln!("{:.2} % within {bound} s in the router", 100.0 * share);
    }
    let (_, share) = within.iter().find(|(bound, _)| *bound == LAG).unwrap();
    assert!(*share >= 0.99, "{:.2} % within {LAG} s in the router", 100.0 * share);
    assert!(stall <= STALL, "a stream stood still for {stall:?}");
    swarm.wait_until_idle().await;
    server.stop().await;
}
