//! Nodes that stand by: they hold a stage's rows when it is lost, so that the answer goes on almost at once.

use std::time::Duration;

use proto::NodeId;
use router::generate::{Finish, GenerateRequest, Step};
use tokio::time::Instant;

use crate::swarm::{Settings, TestRouter, ToySwarm, metric, request};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];
/// Two nodes for each of three spans.
const PAIRS: [(u32, u32); 6] = [(0, 10), (0, 10), (10, 20), (10, 20), (20, 30), (20, 30)];
/// Three times the limit (0.5 s) for what a client sees of a node's death: other tests run beside this one.
const GAP: Duration = Duration::from_millis(1_500);
/// A decode step takes a while, so that those that stand by have followed when the first one dies.
const ROW: Duration = Duration::from_millis(2);

fn slow() -> Settings {
    let hook = |_| {
        let step: shard_node_stage::StepHook = Box::new(|_| {
            spin(ROW);
            Ok(())
        });
        Some(step)
    };
    Settings { hook, ..Settings::spans(&PAIRS) }
}

/// As a stage that computes: the thread is busy.
fn spin(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// What an answer went through.
#[derive(Debug, Default)]
struct Seen {
    tokens: Vec<u32>,
    /// The nodes of each route that it took.
    routes: Vec<Vec<NodeId>>,
    longest: Duration,
}

/// An answer during which the present node of each of `stages` vanishes, one after the other, each after so many tokens.
async fn through_deaths(
    swarm: &ToySwarm,
    router: &TestRouter,
    wanted: &GenerateRequest,
    stages: &[usize],
    apart: usize,
) -> Seen {
    let mut seen = Seen::default();
    let mut last = Instant::now();
    let mut watch = |step: Step<'_>| match step {
        Step::Route(to) | Step::Moved(_, to) => {
            seen.routes.push(to.stages.iter().map(|stage| stage.node).collect());
        }
        Step::Token(timed, _) => {
            seen.tokens.push(timed.token.token);
            if seen.tokens.len() > 1 {
                seen.longest = seen.longest.max(last.elapsed());
            }
            last = Instant::now();
            let deaths = seen.routes.len() - 1;
            if deaths < stages.len() && seen.tokens.len() == apart * (deaths + 1) {
                let node = seen.routes[deaths][stages[deaths]];
                let victim = (0..swarm.nodes.len()).find(|&at| swarm.id(at) == node);
                swarm.faults[victim.unwrap()].freeze();
            }
        }
        Step::Retry(error) => panic!("{error}"),
        Step::Rest(_) => {}
    };
    let reply = router.watch(wanted, &mut watch).await.unwrap();
    assert_eq!(reply.finish, Finish::Length);
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_by_takes_over_whichever_stage_vanishes() {
    for stage in 0..3 {
        let swarm = ToySwarm::start(slow()).await;
        let router = swarm.router(100).await;
        let wanted = GenerateRequest { standby: true, ..request(&PROMPT, 200) };
        let seen = through_deaths(&swarm, &router, &wanted, &[stage], 100).await;
        assert_eq!(seen.tokens, swarm.model.answer(&PROMPT, 200));
        assert_eq!(seen.routes.len(), 2, "it moved once: {seen:?}");
        for other in (0..3).filter(|&other| other != stage) {
            assert_eq!(seen.routes[0][other], seen.routes[1][other], "the others stay");
        }
        assert_ne!(seen.routes[0][stage], seen.routes[1][stage]);
        let sum = |name| swarm.nodes.iter().map(|node| metric(node, name)).sum::<usize>();
        // All three go on from rows: two from their own, one from those that it computed while it stood by; and those
        // that stand by for the other two once more.
        assert!(sum("shard_node_sessions_resumed_total") >= 3);
        let again = sum("shard_node_replayed_rows_total");
        eprintln!("stage {stage}: gap {:?}, {again} rows sent again", seen.longest);
        assert!(again <= 48, "at most three portions, not all {} rows: {again}", 104);
        assert!(seen.longest < GAP, "{:?}", seen.longest);
        let text = router.registry.encode().unwrap();
        assert!(text.contains("router_takeovers_total 1\n"), "{text}");
        swarm.faults.iter().for_each(proto_transport::testing::Faults::thaw);
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_standby_vanishes_or_is_busy_the_answer_does_not_notice() {
    let swarm = ToySwarm::start(slow()).await;
    let router = swarm.router(100).await;
    let wanted = GenerateRequest { standby: true, ..request(&PROMPT, 200) };
    let mut tokens = Vec::new();
    let mut route: Vec<NodeId> = Vec::new();
    let mut watch = |step: Step<'_>| match step {
        Step::Route(to) => route = to.stages.iter().map(|stage| stage.node).collect(),
        Step::Token(timed, _) => {
            tokens.push(timed.token.token);
            if tokens.len() == 60 {
                // All that are not on the route.
                let spare = |&at: &usize| !route.contains(&swarm.id(at));
                (0..swarm.nodes.len()).filter(spare).for_each(|at| swarm.faults[at].freeze());
            }
        }
        other => panic!("{other:?}"),
    };
    let reply = router.watch(&wanted, &mut watch).await.unwrap();
    assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 200));
    assert_eq!(reply.moves, 0);
    swarm.faults.iter().for_each(proto_transport::testing::Faults::thaw);
    swarm.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_without_spare_nodes_answers_as_without_standbys() {
    let swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    let wanted = GenerateRequest { standby: true, ..request(&PROMPT, 50) };
    let reply = router.generate(&wanted).await.unwrap();
    assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 50));
    swarm.wait_until_idle().await;
}
