//! The real model in class exact over pairs of nodes: a node is killed in the middle of eight answers, again and again,
//! and each answer is what it is undisturbed, every token once.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(clippy::print_stderr, reason = "the seed and the gaps are told")]

use std::path::Path;
use std::time::Duration;

use cluster_tests::processes::{NodeProcess, Programs};
use cluster_tests::serving::Serving;
use cluster_tests::watched::{Gaps, STREAMS, TOKENS, all, exact_node, until_known};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Two nodes each.
const SPANS: [&str; 2] = ["0..15", "15..30"];
/// Three times what a client should see at p95: the test's other processes share its cores.
const GAP: Duration = Duration::from_secs(6);

/// The same where other nodes stand by.
const STANDBY_GAP: Duration = Duration::from_millis(1_500);

/// How a node is done away with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    Kill,
    Stop,
}

fn node(programs: &Programs, home: &Path, span: &str, bootstrap: Option<&NodeProcess>) -> NodeProcess {
    exact_node(programs, home, span, bootstrap, &[]).unwrap()
}

async fn rounds(seed: u64, rounds: usize, blow: Blow, standby: bool) {
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let mut nodes: Vec<(&str, NodeProcess)> = Vec::new();
    for span in [SPANS[0], SPANS[1], SPANS[0], SPANS[1]] {
        let started = node(&programs, home.path(), span, nodes.first().map(|(_, node)| node));
        nodes.push((span, started));
    }
    let arguments: &[&str] = if standby { &["--standby"] } else { &[] };
    let router = Serving::start(&programs, home.path(), &nodes[0].1.ready().target(), arguments).unwrap();
    until_known(&router, nodes.len()).await;
    let undisturbed = all(router.listen, usize::MAX, || {}).await;
    let mut gaps = Gaps::default();
    for round in 0..rounds {
        // The spans by turns: the one that took a dead node's place has a round to become known.
        let span = SPANS[round % SPANS.len()];
        let after = rng.random_range(STREAMS..STREAMS * TOKENS * 3 / 4);
        until_known(&router, nodes.len()).await;
        let mut victim = None;
        let answers = all(router.listen, after, || {
            // Of the span's nodes the one that most answers go over.
            let count = |node: &NodeProcess, name| node.metric(name).unwrap() as i64;
            let sessions = |node: &NodeProcess| {
                count(node, "shard_node_sessions") - count(node, "shard_node_standby_sessions")
            };
            let of_span = (0..nodes.len()).filter(|&node| nodes[node].0 == span);
            let most = of_span.max_by_key(|&node| sessions(&nodes[node].1)).unwrap();
            let (_, mut lost) = nodes.remove(most);
            match blow {
                Blow::Kill => lost.running().kill_hard().unwrap(),
                Blow::Stop => lost.running().signal("STOP").unwrap(),
            }
            victim = Some(lost);
        })
        .await;
        gaps.take(&format!("round {round}"), &answers, &undisturbed);
        drop(victim);
        let started = node(&programs, home.path(), span, nodes.first().map(|(_, node)| node));
        nodes.push((span, started));
    }
    assert!(gaps.moved() > 0, "no answer was hit");
    eprintln!("{blow:?}, {rounds} rounds: {gaps}");
    let limit = if standby { STANDBY_GAP } else { GAP };
    assert!(gaps.at(0.95) <= limit, "{gaps}");
    if standby {
        let taken_over = router.metric("router_takeovers_total").unwrap();
        eprintln!("{taken_over} of {} moves to a node that stood by", gaps.moved());
        assert!(taken_over > 0.0);
    }
}

#[tokio::test]
async fn a_node_is_killed_five_times_and_no_answer_changes() {
    rounds(0x5eed, 5, Blow::Kill, false).await;
}

#[tokio::test]
async fn a_node_is_killed_another_five_times_and_no_answer_changes() {
    rounds(0xd1e, 5, Blow::Kill, false).await;
}

#[tokio::test]
async fn a_node_that_stands_still_is_left_and_no_answer_changes() {
    rounds(0x5eee, 2, Blow::Stop, false).await;
}

#[tokio::test]
async fn with_nodes_that_stand_by_a_killed_one_is_hardly_missed() {
    rounds(0x57a, 3, Blow::Kill, true).await;
}

#[tokio::test]
async fn with_nodes_that_stand_by_one_that_stands_still_is_hardly_missed() {
    rounds(0x57b, 2, Blow::Stop, true).await;
}

#[tokio::test]
#[ignore = "takes half an hour"]
async fn soak_a_node_is_killed_a_hundred_times_and_no_answer_changes() {
    rounds(rand::rng().random(), 100, Blow::Kill, false).await;
}
