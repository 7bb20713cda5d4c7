//! Nodes and routers that vanish: who notices, how soon, and that nothing is left behind.

use std::time::Duration;

use proto_transport::testing::{Faults, Link};

use crate::support::{Asked, LEASE_MS, Swarm, TestRouter, Told, key, wait_for_status};
use proto::status::CloseCode;
use shard_node_stage::ToyModel;
use tokio::time::Instant;

const MODEL: ToyModel = ToyModel::new(6);

/// Three times what is allowed (1.5 s) from a node's death to the router's knowing which one: other tests run beside
/// this one. `benches -- detection` records the figure.
const NOTICE: Duration = Duration::from_millis(4_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_named_by_its_neighbours() {
    let mut swarm = Swarm::start(MODEL, 3).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked::new(1, &[1, 2, 3], 2_000);
    router.start(&plan, &asked).await;
    router.tokens(1, 5).await;
    let middle = swarm.nodes.remove(1);
    let (lost, killed) = (middle.ready().node, Instant::now());
    middle.stop_now().await;
    for neighbour in [0, 2] {
        let failed = router.failed(1, plan.stages[neighbour].node).await;
        assert_eq!((failed.code, failed.lost), (CloseCode::HopLost, Some(lost)), "stage {neighbour}");
    }
    assert!(killed.elapsed() < NOTICE, "{:?}", killed.elapsed());
    for node in &swarm.nodes {
        wait_for_status(node, "KV is free", |status| status.kv_reserved == 0).await;
    }
    swarm.shutdown().await;
}

/// Gone without a word: no packet in or out, as after `kill -9` or a pulled plug.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_falls_silent_is_named_in_time() {
    let silent = Faults::new(1);
    let swarm = Swarm::configured(
        MODEL,
        3,
        |_| None,
        |mut config| {
            // The second one.
            if config.endpoint.key.node_id() == key(2).node_id() {
                config.endpoint = config.endpoint.with_faults(&silent);
            }
            config
        },
    )
    .await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked::new(1, &[1, 2, 3], 4_000);
    router.start(&plan, &asked).await;
    router.tokens(1, 5).await;
    silent.freeze();
    let frozen = Instant::now();
    for neighbour in [0, 2] {
        let failed = router.failed(1, plan.stages[neighbour].node).await;
        assert_eq!((failed.code, failed.lost), (CloseCode::HopLost, Some(plan.stages[1].node)));
    }
    println!("named after {:?}", frozen.elapsed());
    assert!(frozen.elapsed() < NOTICE, "{:?}", frozen.elapsed());
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_changes_no_answer() {
    let seed = 0x5eed_0011;
    println!("seed {seed:#x}");
    let faults = Faults::new(seed);
    let reorder_by = Duration::from_millis(3);
    let with_faults = |mut config: shard_node::node::NodeConfig| {
        config.endpoint = config.endpoint.with_faults(&faults);
        config
    };
    let swarm = Swarm::configured(MODEL, 3, |_| None, with_faults).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let sessions: Vec<Asked> = (0..4).map(|number| Asked::new(number, &[number as u32, 2, 3], 60)).collect();
    // A dial may fail on such a network, and a router tries again; here it is the sessions that are looked at.
    for asked in &sessions {
        router.open(&plan, asked).await.unwrap();
    }
    faults.everywhere(Link { loss: 0.02, duplicate: 0.02, reorder: 0.05, reorder_by, ..Link::default() });
    for asked in &sessions {
        router.prompt(&plan, asked).await;
        router.credit(&plan, asked, u32::MAX).await;
    }
    for asked in &sessions {
        assert_eq!(router.tokens(asked.session, usize::MAX).await, MODEL.answer(&asked.prompt, 60));
    }
    assert!(faults.counts().dropped > 0);
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_vanishes_leaves_no_session_after_its_lease() {
    let swarm = Swarm::start(MODEL, 2).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked { lease_ms: 400, ..Asked::new(1, &[1, 2, 3], 2_000) };
    router.open(&plan, &asked).await.unwrap();
    router.prompt(&plan, &asked).await;
    router.tokens(1, 1).await;
    let began = Instant::now();
    router.leave().await;
    for node in &swarm.nodes {
        wait_for_status(node, "KV is free", |status| status.kv_reserved == 0).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "not before the lease: {:?}", began.elapsed());
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_router_is_told_that_its_lease_ended() {
    let swarm = Swarm::start(MODEL, 1).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked { lease_ms: 300, ..Asked::new(1, &[1, 2, 3], 20) };
    router.open(&plan, &asked).await.unwrap();
    let failed = router.failed(1, plan.stages[0].node).await;
    assert_eq!(failed.code, CloseCode::LeaseExpired);
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_opened_and_abandoned_sessions_leave_no_kv() {
    let swarm = Swarm::start(MODEL, 3).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    for session in 0..1_000 {
        let asked = Asked { lease_ms: 1_000, ..Asked::new(session, &[1, 2, 3], 4) };
        router.open(&plan, &asked).await.unwrap();
        match session % 4 {
            0 => router.prompt(&plan, &asked).await,
            1 => router.close(&plan, &asked, CloseCode::Cancelled).await,
            2 => {
                router.prompt(&plan, &asked).await;
                router.credit(&plan, &asked, u32::MAX).await;
            }
            _ => {}
        }
    }
    router.leave().await;
    for node in &swarm.nodes {
        wait_for_status(node, "KV is free", |s| s.kv_reserved == 0 && s.sessions == 0).await;
        let metrics = node.metrics_text();
        assert!(metrics.contains("shard_node_sessions_opened_total 1000"), "{metrics}");
        assert!(metrics.contains("shard_node_kv_reserved_positions 0"), "{metrics}");
    }
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_comes_while_a_session_is_open() {
    let swarm = Swarm::start(MODEL, 2).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked::new(1, &[1, 2, 3], 9);
    router.open(&plan, &asked).await.unwrap();
    router.prompt(&plan, &asked).await;
    for stage in &plan.stages {
        let began = Instant::now();
        router
            .wait("progress over the whole prompt", |node, told| match told {
                Told::Progress(progress) if node == stage.node && progress.applied.get() == 3 => Some(()),
                _ => None,
            })
            .await;
        assert!(began.elapsed() < Duration::from_millis(u64::from(LEASE_MS)));
    }
    swarm.shutdown().await;
}
