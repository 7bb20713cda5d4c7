//! Prompts that begin alike: their rows are computed once, and no answer shows it.

use std::sync::Arc;

use router::generate::Reply;
use tokio::task::JoinSet;

use crate::swarm::{Settings, TestRouter, ToySwarm, request};

/// A system prompt of 1,000 tokens and some of one's own.
fn prompt(own: &[u32]) -> Vec<u32> {
    (0..1000u32).map(|at| (at * 13 + at / 64) % 64).chain(own.iter().copied()).collect()
}

async fn answer(router: &TestRouter, swarm: &ToySwarm, prompt: &[u32]) -> Reply {
    let reply = router.generate(&request(prompt, 8)).await.unwrap();
    assert_eq!(reply.token_ids, swarm.model.answer(prompt, 8));
    reply
}

fn skipped(reply: &Reply) -> Vec<u32> {
    reply.hops.iter().map(|hop| hop.skipped_rows.expect("every account came")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_system_prompt_is_computed_once() {
    let swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    let first = answer(&router, &swarm, &prompt(&[1, 2, 3])).await;
    assert_eq!(skipped(&first), [0, 0, 0]);
    let second = answer(&router, &swarm, &prompt(&[9, 8, 7, 6])).await;
    assert_eq!(skipped(&second), [960, 960, 960]);
    let computed = second.prompt_token_ids.len() as u32 - 960;
    assert!(f64::from(computed) <= 0.15 * first.prompt_token_ids.len() as f64, "{computed} rows computed");
    for node in &swarm.nodes {
        let metrics = node.metrics_text();
        for line in [
            "shard_node_prefix_lookups_total 2",
            "shard_node_prefix_hits_total 1",
            "shard_node_prefix_skipped_rows_total 960",
            "shard_node_kv_cached_positions 960",
        ] {
            assert!(metrics.lines().any(|other| other == line), "{line} in\n{metrics}");
        }
    }
    // Nobody else's.
    let other = swarm.router(101).await;
    assert_eq!(skipped(&answer(&other, &swarm, &prompt(&[9])).await), [0, 0, 0]);
    router.shutdown().await;
    other.shutdown().await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_sessions_with_one_beginning_get_the_models_answers() {
    let swarm = Arc::new(ToySwarm::start(Settings::split(3)).await);
    let router = Arc::new(swarm.router(100).await);
    answer(&router, &swarm, &prompt(&[5])).await;
    let mut sessions = JoinSet::new();
    for number in 0..32u32 {
        let (router, swarm) = (Arc::clone(&router), Arc::clone(&swarm));
        sessions.spawn(async move {
            // Some go on from within the common beginning.
            let own = [number % 64, 1, 2, number % 7];
            let cut = if number % 3 == 0 { 500 + number as usize } else { 1000 };
            let prompt = [&prompt(&[])[..cut], &own[..]].concat();
            let reply = answer(&router, &swarm, &prompt).await;
            let whole = (cut as u32 / 64) * 64;
            // An account may be late on a busy machine; the nodes' own count below is not.
            for rows in reply.hops.iter().filter_map(|hop| hop.skipped_rows) {
                assert_eq!(rows, whole, "session {number}");
            }
            whole
        });
    }
    let mut expected = 0;
    while let Some(session) = sessions.join_next().await {
        expected += session.unwrap();
    }
    swarm.wait_until_idle().await;
    for node in &swarm.nodes {
        let line = format!("shard_node_prefix_skipped_rows_total {expected}");
        assert!(node.metrics_text().lines().any(|other| other == line), "{line}");
    }
}
