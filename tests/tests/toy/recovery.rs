//! Answers that go on when nodes vanish in the middle of them: what comes is what the model says, each token once.

use std::time::Duration;

use proto::answer::AnswerTerms;
use proto::session::SamplingParams;
use router::generate::{Finish, GenerateRequest, Step};
use tokio::time::Instant;

use crate::swarm::{Settings, TestRouter, ToySwarm, metric, request};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];
/// Two nodes for each of three spans.
const PAIRS: [(u32, u32); 6] = [(0, 10), (0, 10), (10, 20), (10, 20), (20, 30), (20, 30)];
/// Three times the limit (2 s) for what a client sees of a node's death: other tests run beside this one.
const GAP: Duration = Duration::from_secs(6);

/// An answer during which the present node of each of `stages` vanishes, one after the other; gives the longest gap.
async fn through_deaths(
    swarm: &ToySwarm,
    router: &TestRouter,
    wanted: &GenerateRequest,
    stages: &[usize],
) -> (Vec<u32>, Duration) {
    let (mut route, mut tokens, mut moves) = (Vec::new(), Vec::new(), 0);
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let mut watch = |step: Step<'_>| match step {
        Step::Route(to) => route = to.stages.iter().map(|stage| stage.node).collect(),
        Step::Moved(lost, to) => {
            let before = std::mem::replace(&mut route, to.stages.iter().map(|stage| stage.node).collect());
            assert_eq!(lost.avoid(), Some(before[stages[moves]]), "{lost}");
            assert_ne!(route[stages[moves]], before[stages[moves]]);
            moves += 1;
        }
        Step::Token(timed, _) => {
            tokens.push(timed.token.token);
            if tokens.len() > 1 {
                longest = longest.max(last.elapsed());
            }
            last = Instant::now();
            // Some tokens after each move the next one dies.
            if moves < stages.len() && tokens.len() == 10 * (moves + 1) {
                let victim = (0..swarm.nodes.len()).find(|&node| swarm.id(node) == route[stages[moves]]);
                swarm.faults[victim.unwrap()].freeze();
            }
        }
        Step::Retry(error) => panic!("{error}"),
        Step::Rest(_) => {}
    };
    let reply = router.watch(wanted, &mut watch).await.unwrap();
    assert_eq!((reply.finish, &reply.token_ids), (Finish::Length, &tokens));
    assert_eq!(moves, stages.len());
    assert_eq!(reply.stages.iter().map(|stage| stage.node).collect::<Vec<_>>(), route);
    (tokens, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_on_whichever_stages_vanish() {
    for stages in [&[0][..], &[1], &[2], &[0, 2, 1], &[2, 1]] {
        let swarm = ToySwarm::start(Settings::spans(&PAIRS)).await;
        let router = swarm.router(100).await;
        let (tokens, gap) = through_deaths(&swarm, &router, &request(&PROMPT, 300), stages).await;
        assert_eq!(tokens, swarm.model.answer(&PROMPT, 300));
        eprintln!("{stages:?}: longest gap {gap:?}");
        assert!(gap < GAP, "{stages:?}: {gap:?}");
        let sum = |name| swarm.nodes.iter().map(|node| metric(node, name)).sum::<usize>();
        assert_eq!(
            sum("shard_node_sessions_resumed_total"),
            2 * stages.len(),
            "both others go on from their rows"
        );
        let sent_again = sum("shard_node_replayed_rows_total");
        // The prompt's five rows and those of nine tokens of ten; after the first stage nobody sends it anything.
        let expected: usize =
            stages.iter().zip(1..).filter(|(stage, _)| **stage > 0).map(|(_, n)| 4 + 10 * n).sum();
        assert!(
            sent_again >= expected,
            "{stages:?}: {sent_again} rows were sent again, {expected} were lost"
        );
        swarm.faults.iter().for_each(proto_transport::testing::Faults::thaw);
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sampled_with_penalties_is_not_sampled_again() {
    let sampling = SamplingParams {
        temperature: 1.1,
        top_p: 0.9,
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        seed: 0x5eed,
        ..SamplingParams::default()
    };
    let wanted = GenerateRequest {
        sampling,
        answer: AnswerTerms { top_logprobs: 3, ..AnswerTerms::default() },
        ..request(&PROMPT, 200)
    };
    let swarm = ToySwarm::start(Settings::spans(&PAIRS)).await;
    let router = swarm.router(100).await;
    let whole = router.generate(&wanted).await.unwrap();
    let (tokens, _) = through_deaths(&swarm, &router, &wanted, &[2, 0]).await;
    assert_eq!(tokens, whole.token_ids);
    assert_ne!(tokens, swarm.model.answer(&PROMPT, 200), "a greedy answer shows nothing of penalties");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nobody_left_for_a_span_the_answer_ends_and_says_so_and_others_come_when_a_node_does() {
    let mut swarm = ToySwarm::start(Settings::split(3)).await;
    let router = swarm.router(100).await;
    let (mut tokens, mut vanished) = (0, None);
    let mut watch = |step: Step<'_>| {
        if let Step::Token(..) = step {
            tokens += 1;
            if tokens == 20 {
                swarm.faults[1].freeze();
                vanished = Some(Instant::now());
            }
        }
    };
    let error = router.watch(&request(&PROMPT, 4000), &mut watch).await.expect_err("a span is gone");
    let text = error.to_string();
    // It was asked once more before, as nobody else has its layers.
    assert!(text.starts_with(&swarm.label(1)), "{text}");
    assert!(text.contains("layers 10..20") && text.contains("it could not go on elsewhere"), "{text}");
    assert!(vanished.expect("the answer had begun").elapsed() < GAP, "{text}");
    let served = cluster_tests::toy::served(swarm.model, &[], None);
    swarm.add("10..20".parse().unwrap(), served, None).await;
    let reply = router.generate(&request(&PROMPT, 20)).await.unwrap();
    assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 20));
    swarm.faults[1].thaw();
    swarm.wait_until_idle().await;
}
