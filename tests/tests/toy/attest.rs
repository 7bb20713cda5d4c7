//! What the hops of an answer sign, in swarms of one process: it fits together, whatever happens on the way.

use proto_attest::check::{Report, Severity, What, check};
use router::generate::{Finish, Reply, Step};

use crate::swarm::{Settings, ToySwarm, metric, request};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];

fn signed(spans: &[(u32, u32)]) -> Settings {
    Settings { signs: |_| true, ..Settings::spans(spans) }
}

fn report(reply: &Reply) -> Report {
    let evidence = reply.evidence.as_ref().expect("it was asked for").evidence(&reply.token_ids);
    check(&evidence.expect("it was signed for"))
}

/// Every row behind the answer is signed for.
fn assert_whole(reply: &Reply, receipts: u32) {
    let report = report(reply);
    assert!(report.findings.iter().all(|found| found.severity == Severity::Note), "{:#?}", report.findings);
    assert_eq!((report.receipts_verified, report.receipts_shown), (receipts, receipts));
    assert_eq!(report.tokens_signed as usize, reply.token_ids.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_behind_an_answer_is_signed_for() {
    for parts in [1, 2, 3] {
        let settings = Settings { signs: |_| true, ..Settings::split(parts) };
        let swarm = ToySwarm::start(settings).await;
        let router = swarm.signing_router(200).await;
        // 600 rows of prompt: three windows; then 69 rows of tokens: two full ones and a ragged one.
        let prompt: Vec<u32> = (0..600).map(|at| at % 50).collect();
        let reply = router.generate(&request(&prompt, 70)).await.unwrap();
        assert_whole(&reply, 6 * parts);
        // A short one: one window of prompt, one ragged one of tokens.
        let reply = router.generate(&request(&PROMPT, 10)).await.unwrap();
        assert_whole(&reply, 2 * parts);
        // A single token needs no row of its own.
        let reply = router.generate(&request(&PROMPT, 1)).await.unwrap();
        assert_whole(&reply, parts);
        assert_eq!(metric(&swarm.nodes[0], "shard_node_unsigned_sessions_total"), 0);
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reused_prompt_cites_the_receipts_that_made_its_rows() {
    let swarm = ToySwarm::start(signed(&[(0, 15), (15, 30)])).await;
    let router = swarm.signing_router(200).await;
    let prompt: Vec<u32> = (0..300).map(|at| at % 50).collect();
    for again in [false, true, true] {
        let reply = router.generate(&request(&prompt, 5)).await.unwrap();
        let report = report(&reply);
        let reused = report.findings.iter().filter(|found| found.what == What::Reused).count();
        assert_eq!(reused, if again { 2 } else { 0 }, "{:#?}", report.findings);
        assert_eq!(report.gaps().count(), 0, "{:#?}", report.findings);
        assert!(report.holds());
        swarm.wait_until_idle().await;
    }
    router.shutdown().await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_moved_accuses_nobody() {
    let pairs = [(0, 10), (0, 10), (10, 20), (10, 20), (20, 30), (20, 30)];
    for victim in 0..3 {
        let swarm = ToySwarm::start(signed(&pairs)).await;
        let router = swarm.signing_router(200).await;
        let (mut route, mut tokens) = (Vec::new(), 0);
        let mut watch = |step: Step<'_>| match step {
            Step::Route(to) => route = to.stages.iter().map(|stage| stage.node).collect(),
            Step::Token(..) => {
                tokens += 1;
                if tokens == 50 {
                    let node = (0..swarm.nodes.len()).find(|&node| swarm.id(node) == route[victim]);
                    swarm.faults[node.unwrap()].freeze();
                }
            }
            _ => {}
        };
        let reply = router.watch(&request(&PROMPT, 150), &mut watch).await.unwrap();
        assert_eq!((reply.finish, reply.moves), (Finish::Length, 1));
        let report = report(&reply);
        assert!(report.holds(), "{:#?}", report.findings);
        // What the dead one had not signed nobody else signs for; the others are whole.
        let dead = route[victim];
        for gap in report.gaps() {
            let hop = gap.hop.map(usize::from);
            let tail_died = victim == 2 && gap.what == What::TokensUnattested;
            assert!(hop == Some(victim) || tail_died, "{gap}; dead is {}", dead.short());
            assert_eq!(gap.generation, 0, "{gap}");
        }
        assert_eq!(report.receipts_verified, report.receipts_shown);
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_node_signs_nothing_the_answer_comes_all_the_same() {
    let settings = Settings { signs: |node| node != 1, ..Settings::split(3) };
    let swarm = ToySwarm::start(settings).await;
    let router = swarm.signing_router(200).await;
    let reply = router.generate(&request(&PROMPT, 10)).await.unwrap();
    assert_eq!(reply.token_ids.len(), 10);
    let evidence = reply.evidence.unwrap();
    assert_eq!(evidence.collected().generations, 0);
    assert!(evidence.bundle(&reply.token_ids).is_err());
    router.shutdown().await;
    swarm.shutdown().await;
}
