//! The gap between two stages: from the end of one's compute to the beginning of the next one's.

use crate::support::{Asked, Swarm, TestRouter};
use proto::status::CloseCode;
use shard_node_stage::ToyModel;

const MODEL: ToyModel = ToyModel::new(6);

/// The target, 150 us, is measured by `benches` on processes of their own; here three nodes, a router and other tests
/// share two threads, and the bound only catches a lost wake-up or a timer in the path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_median_hop_takes_well_under_a_millisecond() {
    let swarm = Swarm::start(MODEL, 3).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked::new(1, &[1, 2, 3], 1_000);
    router.start(&plan, &asked).await;
    router.tokens(1, usize::MAX).await;
    router.close(&plan, &asked, CloseCode::Finished).await;
    let mut hops = Vec::new();
    for stage in &plan.stages {
        hops.push(router.ended(1, stage.node).await.hop_us);
    }
    println!(
        "median hop in us: tail -> stage 0 {} (estimated), 0 -> 1 {}, 1 -> 2 {}",
        hops[0], hops[1], hops[2]
    );
    assert!(hops.iter().all(|&hop| hop > 0 && hop < 5_000), "{hops:?}");
    swarm.shutdown().await;
}
