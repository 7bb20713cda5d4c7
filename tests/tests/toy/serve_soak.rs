//! The long run: many streams for minutes, whose tokens are all there and whose memory does not grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::serve::{TestServer, asked, begin, read};
use crate::swarm::{Settings, ToySwarm};

const CLIENTS: u32 = 64;
const MINUTES: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 10 minutes"]
async fn soak_sixty_four_streams_for_ten_minutes_lose_no_token_and_no_memory() {
    let swarm = ToySwarm::start(Settings::split(3)).await;
    let server = TestServer::start(&swarm, 100, |_| {}).await;
    let begun = Instant::now();
    let tokens = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (addr, model, tokens) = (server.addr, swarm.model, Arc::clone(&tokens));
        clients.spawn(async move {
            let mut round = 0;
            while begun.elapsed() < Duration::from_mins(u64::from(MINUTES)) {
                let prompt: Vec<u32> =
                    (0..=(client + round) % 29).map(|at| (client * 5 + round + at) % 64).collect();
                let wanted = 20 + (client * 7 + round) % 100;
                let (ids, _) = read(&mut begin(addr, &asked(&prompt, wanted)).await, prompt.len()).await;
                assert_eq!(ids.len(), wanted as usize);
                // The model's own answer takes as long as a swarm's: a sample is enough.
                if (client + round) % 16 == 0 {
                    assert_eq!(ids, model.answer(&prompt, wanted as usize), "client {client}, round {round}");
                }
                tokens.fetch_add(u64::from(wanted), Ordering::Relaxed);
                round += 1;
            }
        });
    }
    let mut minute = interval(Duration::from_mins(1));
    minute.tick().await;
    let mut resident = Vec::new();
    for _ in 0..MINUTES {
        minute.tick().await;
        resident.push(resident_bytes());
        eprintln!("{} MB, {} tokens", resident[resident.len() - 1] >> 20, tokens.load(Ordering::Relaxed));
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let (first, worst) = (resident[0], resident.iter().copied().max().unwrap());
    assert!(worst as f64 <= first as f64 * 1.05, "{first} grew to {worst} bytes");
    swarm.wait_until_idle().await;
    server.stop().await;
}

/// Of this process: nodes, router and clients.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
