//! What the hops of an answer sign, in swarms of one process: it fits together, whatever happens on the way.

use proto::NodeKey;
use proto::tensor::NumericsClass;
use proto_attest::audit::{AuditRate, AuditSeed};
use proto_attest::check::Evidence;
use proto_attest::check::{Report, Severity, What, check};
use proto_attest::verdict::Outcome;
use proto_attest::{Digest, ReceiptKey};
use proto_transport::{Endpoint, EndpointConfig, Peers};
use router::clock::unix_seconds;
use router::generate::{Finish, Reply, Step};
use shard_node::audit::{AuditError, Auditor, Judge, recompute, subjects};
use shard_node_stage::{Stage, StageShape, ToyStage};

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

/// Audits all hops of an answer: of each receipt that the seed chose the outcomes, by node.
async fn audit(
    swarm: &ToySwarm,
    evidence: &Evidence,
    rate: f64,
) -> Vec<(usize, Result<Outcome, AuditError>)> {
    let config = EndpointConfig::new(NodeKey::from_seed(&[99; 32]), ([127, 0, 0, 1], 0).into());
    let endpoint = Endpoint::bind(config).unwrap();
    let peers = Peers::new(endpoint.clone(), 8);
    let key = ReceiptKey::from_bytes(&[77; 32]).unwrap();
    let mut outcomes = Vec::new();
    for subject in subjects(evidence).unwrap() {
        let node = (0..swarm.nodes.len()).find(|&node| swarm.id(node) == subject.node).unwrap();
        let auditor =
            Auditor::connect(&peers, subject.node, &[swarm.nodes[node].ready().listen]).await.unwrap();
        let mut stage = ToyStage::new(swarm.model, subject.span);
        let shape: StageShape = stage.shape();
        assert_eq!(shape.class, NumericsClass::Exact);
        let judge = Judge { shape, evidence, calibration: None, exec_build: Digest::ZERO, key: &key };
        for epoch in subject.epochs() {
            let seed = (AuditSeed::from_bytes([5; 32]), AuditRate::of_share(rate));
            let asked = match auditor.ask(&subject, epoch, seed, &key, unix_seconds()).await {
                Ok(asked) => asked,
                Err(error) => {
                    outcomes.push((node, Err(error)));
                    continue;
                }
            };
            for receipt in asked.chosen {
                let work = subject.work(&receipt).unwrap().unwrap();
                let opened = match auditor.open(&work, shape.row_bytes()).await {
                    Ok(opened) => opened,
                    Err(error) => {
                        outcomes.push((node, Err(error)));
                        continue;
                    }
                };
                let rows = work.receipt.receipt().rows;
                let rows = rows.sent_start..rows.end;
                let again = recompute(&mut stage, subject.span, &opened.input, rows, true).unwrap();
                let judged = judge.rows(subject.span, &opened, &again);
                let tokens = judge.tokens(&work, &again).map_or(Outcome::Pass, |judged| judged.outcome);
                let verdict = judge.sign(
                    (asked.challenge, subject.node),
                    (subject.span, &work),
                    judged,
                    "toy",
                    unix_seconds(),
                );
                verdict.unwrap().signed.verify().unwrap();
                outcomes.push((node, Ok(if tokens == Outcome::Pass { judged.outcome } else { tokens })));
            }
        }
    }
    endpoint.shutdown().await;
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_finds_honest_nodes_honest_even_where_an_answer_moved() {
    let pairs = [(0, 10), (0, 10), (10, 20), (10, 20), (20, 30), (20, 30)];
    let swarm = ToySwarm::start(signed(&pairs)).await;
    let router = swarm.signing_router(200).await;
    let (mut route, mut tokens) = (Vec::new(), 0);
    let mut watch = |step: Step<'_>| match step {
        Step::Route(to) => route = to.stages.iter().map(|stage| stage.node).collect(),
        Step::Token(..) => {
            tokens += 1;
            if tokens == 40 {
                let node = (0..swarm.nodes.len()).find(|&node| swarm.id(node) == route[1]);
                swarm.faults[node.unwrap()].freeze();
            }
        }
        _ => {}
    };
    let mut wanted = request(&PROMPT, 100);
    wanted.sampling.temperature = 0.9;
    wanted.sampling.seed = 7;
    let reply = router.watch(&wanted, &mut watch).await.unwrap();
    assert_eq!(reply.moves, 1);
    let mut evidence = reply.evidence.as_ref().unwrap().evidence(&reply.token_ids).unwrap();
    // The dead one can't be asked.
    let dead = route[1];
    for generation in &mut evidence.generations {
        let hop = generation.open.open.route.iter().position(|hop| hop.node == dead);
        generation.receipts.retain(|receipt| Some(usize::from(receipt.receipt.hop)) != hop);
    }
    let outcomes = audit(&swarm, &evidence, 1.0).await;
    assert!(outcomes.len() >= 12, "{outcomes:?}");
    assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Ok(Outcome::Pass))), "{outcomes:?}");
    let some = audit(&swarm, &evidence, 0.3).await;
    assert!(some.len() < outcomes.len() && !some.is_empty(), "a share of them: {}", some.len());
    router.shutdown().await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_spoilt_are_the_fault_of_who_sent_them() {
    let mut swarm = ToySwarm::start(signed(&[(0, 10), (20, 30)])).await;
    // Finite, and other than its layers give, from the 9th row on.
    let toy = ToyStage::new(swarm.model, proto::LayerSpan::new(10, 20).unwrap());
    let loader = crate::garbage::spoilt(toy, 9, 3.0f32.to_bits());
    swarm.add_stage(crate::swarm::served(swarm.model, &[], None), loader).await;
    let router = swarm.signing_router(200).await;
    let reply = router.generate(&request(&PROMPT, 60)).await.unwrap();
    let evidence = reply.evidence.as_ref().unwrap().evidence(&reply.token_ids).unwrap();
    assert!(check(&evidence).holds(), "each signed for what it sent");
    let outcomes = audit(&swarm, &evidence, 1.0).await;
    let failed: Vec<usize> = outcomes
        .iter()
        .filter(|(_, outcome)| !matches!(outcome, Ok(Outcome::Pass)))
        .map(|&(node, _)| node)
        .collect();
    assert!(!failed.is_empty() && failed.iter().all(|&node| node == 2), "{outcomes:?}");
    router.shutdown().await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_forgotten_its_rows_refuses_to_open() {
    let swarm = ToySwarm::start(Settings { retain_bytes: Some(2_000), ..signed(&[(0, 15), (15, 30)]) }).await;
    let router = swarm.signing_router(200).await;
    let reply = router.generate(&request(&PROMPT, 200)).await.unwrap();
    let evidence = reply.evidence.as_ref().unwrap().evidence(&reply.token_ids).unwrap();
    let outcomes = audit(&swarm, &evidence, 1.0).await;
    let refused = |outcome: &Result<Outcome, AuditError>| {
        outcome.as_ref().err().map(AuditError::outcome) == Some(Outcome::RefusedToOpen)
    };
    assert!(outcomes.iter().any(|(_, outcome)| refused(outcome)), "{outcomes:?}");
    router.shutdown().await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_an_unsigned_generation_nobody_is_asked_to_keep_account() {
    // The one node of the last span that signs nothing is lost, and the other one signs.
    let settings = Settings { signs: |node| node != 1, ..Settings::spans(&[(0, 15), (15, 30)]) };
    let served = settings.served.clone();
    let mut swarm = ToySwarm::start(settings).await;
    let router = swarm.signing_router(200).await;
    let silent = swarm.id(1);
    swarm.add(proto::LayerSpan::new(15, 30).unwrap(), served, None).await;
    // Which of the two is taken first is the router's choice: until it is that one.
    for attempt in 0.. {
        assert!(attempt < 50, "the silent node is never taken");
        let before = metric(&swarm.nodes[0], "shard_node_receipts_total");
        let (mut route, mut tokens) = (Vec::new(), 0);
        let mut watch = |step: Step<'_>| match step {
            Step::Route(to) => route = to.stages.iter().map(|stage| stage.node).collect(),
            Step::Token(..) => {
                tokens += 1;
                if tokens == 20 && route[1] == silent {
                    swarm.faults[1].freeze();
                }
            }
            _ => {}
        };
        let reply = router.watch(&request(&PROMPT, 100), &mut watch).await.unwrap();
        assert_eq!(reply.token_ids.len(), 100);
        if reply.moves == 1 {
            assert_eq!(reply.evidence.unwrap().collected().generations, 0);
            assert_eq!(metric(&swarm.nodes[0], "shard_node_receipts_total"), before);
            break;
        }
    }
    router.shutdown().await;
    swarm.shutdown().await;
}
