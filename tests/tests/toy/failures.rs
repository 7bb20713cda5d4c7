//! Nodes and routers that vanish: who notices, how fast, and what is left behind.

use std::time::Duration;

use proto::session::SamplingParams;
use proto::{Generation, SessionId};
use proto_telemetry::Registry;
use router::generate::{AnswerStream, Resume, Resuming, Step};
use router::metrics::RouterMetrics;
use router::session::{Outcome, SessionError, SessionLimits, SessionShare, SessionTerms};
use router_plan::{RouteRequest, choose_route};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::swarm::{PATIENCE, Settings, TestRouter, ToySwarm, request};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];
/// Three times the limit (1.5 s) between a node's end and the router's word for it: other tests run beside this one.
/// `benches -- detection` records the figure.
const NOTICED: Duration = Duration::from_millis(4500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_vanishes_mid_answer_is_named_with_its_span_in_time() {
    for victim in 0..3 {
        let swarm = ToySwarm::start(Settings::split(3)).await;
        let router = swarm.router(100).await;
        let mut vanished = None;
        let mut tokens = 0;
        let mut watch = |step: Step<'_>| {
            if let Step::Token(..) = step {
                tokens += 1;
                if tokens == 20 {
                    swarm.faults[victim].freeze();
                    vanished = Some(Instant::now());
                }
            }
        };
        let error = router.watch(&request(&PROMPT, 4000), &mut watch).await.expect_err("a stage is gone");
        let took = vanished.expect("the answer had begun").elapsed();
        let text = error.to_string();
        assert!(text.starts_with(&swarm.label(victim)), "{text}");
        assert!(took < NOTICED, "stage {victim} after {took:?}: {text}");
        eprintln!("stage {victim} noticed after {took:?}: {text}");
        swarm.faults[victim].thaw();
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_stopped_mid_answer_is_named() {
    let mut swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    let label = swarm.label(1);
    let victim = swarm.nodes.remove(1);
    let (begun_in, begun) = tokio::sync::oneshot::channel();
    let mut begun_in = Some(begun_in);
    let mut watch = |step: Step<'_>| {
        if let Step::Token(..) = step
            && let Some(begun) = begun_in.take()
        {
            begun.send(()).unwrap();
        }
    };
    let wanted = request(&PROMPT, 4000);
    let stop = async {
        begun.await.unwrap();
        victim.stop_now().await;
    };
    let (answer, ()) = tokio::join!(router.watch(&wanted, &mut watch), stop);
    let text = answer.expect_err("a stage is gone").to_string();
    assert!(text.starts_with(&label), "{text}");
    swarm.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_node_takes_the_place_of_one_that_is_gone_before_the_first_token() {
    let swarm = ToySwarm::start(Settings::spans(&[(0, 15), (15, 30), (15, 30)])).await;
    let router = swarm.router(100).await;
    // Once, so that manifest and connections are there.
    router.generate(&request(&PROMPT, 1)).await.unwrap();
    swarm.faults[1].freeze();
    let asked = Instant::now();
    let reply = router.generate(&request(&PROMPT, 10)).await.unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "the dead node's record held it up: {:?}",
        asked.elapsed()
    );
    assert_eq!(reply.stages[1].node, swarm.id(2));
    assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_answer_keeps_what_came_and_leaves_nothing_behind() {
    let swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    let cancel = CancellationToken::new();
    let mut tokens = 0;
    let mut watch = |step: Step<'_>| {
        if let Step::Token(..) = step {
            tokens += 1;
            if tokens == 10 {
                cancel.cancel();
            }
        }
    };
    let wanted = request(&PROMPT, 4000);
    let answer = router.router.generate(&wanted, &mut watch, &cancel);
    let reply = timeout(PATIENCE, answer).await.unwrap().unwrap();
    assert_eq!(reply.finish, router::generate::Finish::Cancelled);
    assert!(reply.token_ids.len() >= 10 && reply.token_ids.len() < 4000);
    assert!(swarm.model.answer(&PROMPT, reply.token_ids.len()) == reply.token_ids);
    swarm.wait_until_idle().await;
}

/// Finds no other route, and must not be asked for one.
#[derive(Debug)]
struct NotAsked;

impl Resume for NotAsked {
    fn resume(&mut self, lost: &SessionError, _: &[u32]) -> Resuming {
        panic!("an answer that was given up would go on after {lost}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_broke_and_is_given_up_while_tokens_wait_for_its_reader_does_not_go_on() {
    let mut swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    let (model, _) = router.router.model(None).await.unwrap();
    let session = router.router.driver().start(terms(&router, 1, 1000).await).unwrap();
    let metrics = RouterMetrics::register(&Registry::new()).unwrap();
    let mut stream = AnswerStream::new(session, &model, &[], metrics).unwrap();
    stream.resume_by(NotAsked);
    timeout(PATIENCE, stream.next()).await.unwrap().unwrap().expect("a token");
    swarm.nodes.remove(1).stop_now().await;
    let broken = async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while stream.outcome().is_none() {
            look.tick().await;
        }
    };
    timeout(PATIENCE, broken).await.expect("it should be noticed");
    stream.cancel();
    while timeout(PATIENCE, stream.next()).await.unwrap().unwrap().is_some() {}
    assert_eq!(stream.outcome(), Some(Outcome::Cancelled));
    assert_eq!(timeout(PATIENCE, stream.end()).await.unwrap().1.outcome, Outcome::Cancelled);
}

/// Terms over the whole swarm with a short lease.
async fn terms(router: &TestRouter, session: u64, max_tokens: u32) -> SessionTerms {
    let (model, view) = router.router.model(None).await.unwrap();
    let wanted = RouteRequest {
        model: model.id(),
        n_layers: model.manifest().architecture.n_layers,
        class: None,
        max_positions: PROMPT.len() as u32 + max_tokens,
        exclude: std::collections::BTreeSet::new(),
        prefer: std::collections::BTreeMap::new(),
        standby: false,
    };
    SessionTerms {
        answer: proto::answer::AnswerTerms::default(),
        session: SessionId::new(session),
        generation: Generation::new(0),
        plan: choose_route(&view, &wanted).unwrap().to_plan(),
        prompt: PROMPT.into(),
        generated: 0,
        since: Generation::new(0),
        max_tokens,
        max_positions: wanted.max_positions,
        vocab: model.manifest().architecture.vocab,
        eos: Vec::new(),
        sampling: SamplingParams::default(),
        credit: 8,
        limits: SessionLimits { lease: Duration::from_secs(1), ..SessionLimits::default() },
        share: SessionShare::default(),
        standbys: Vec::new(),
        evidence: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_vanishes_leaves_no_session_behind() {
    let swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    let mut sessions = Vec::new();
    for id in 1..=5 {
        let mut session = router.router.driver().start(terms(&router, id, 1000).await).unwrap();
        timeout(PATIENCE, session.next()).await.unwrap().expect("a token");
        sessions.push(session);
    }
    assert!(swarm.nodes.iter().all(|node| node.status().sessions == 5));
    router.faults.freeze();
    let frozen = Instant::now();
    swarm.wait_until_idle().await;
    // Lease of 1 s after the connection's 1 s of silence, and the beats in between.
    assert!(frozen.elapsed() < Duration::from_secs(4), "{:?}", frozen.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_opened_and_abandoned_sessions_leave_no_kv_behind() {
    let swarm = ToySwarm::start(Settings::split(2)).await;
    let router = swarm.router(100).await;
    let template = terms(&router, 0, 20).await;
    let mut sessions = Vec::new();
    for id in 1..=1000 {
        let wanted = SessionTerms { session: SessionId::new(id), ..template.clone() };
        sessions.push(router.router.driver().start(wanted).unwrap());
    }
    for session in &mut sessions {
        // Each has been opened on every stage, as a token came.
        timeout(PATIENCE, session.next()).await.unwrap().expect("a token");
    }
    router.faults.freeze();
    swarm.wait_until_idle().await;
    for node in &swarm.nodes {
        assert_eq!(node.status().kv_reserved, 0);
    }
    // The nodes still work.
    let other = swarm.router(101).await;
    let reply = other.generate(&request(&PROMPT, 5)).await.unwrap();
    assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 5));
}
