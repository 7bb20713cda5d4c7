//! Spans that overlap instead of meeting: nodes compute a part of what they hold.

use router::generate::Step;
use tokio::task::JoinSet;

use crate::swarm::{Settings, ToySwarm, request};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_spans_answer_as_if_they_met() {
    for spans in [&[(0, 20), (10, 30)][..], &[(0, 16), (3, 29), (14, 30)], &[(0, 30), (10, 30), (0, 7)]] {
        let swarm = ToySwarm::start(Settings::spans(spans)).await;
        let router = swarm.router(100).await;
        let mut clients = JoinSet::new();
        for number in 0..6u32 {
            let router = router.router.clone();
            let answer = swarm.model.answer(&[number, 1, 4], 60);
            clients.spawn(async move {
                let cancel = tokio_util::sync::CancellationToken::new();
                let wanted = request(&[number, 1, 4], 60);
                let reply = router.generate(&wanted, &mut |_| {}, &cancel).await.unwrap();
                assert_eq!(reply.token_ids, answer);
            });
        }
        clients.join_all().await;
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_on_over_other_parts_when_a_node_is_lost() {
    for stage in 0..2 {
        // Without any one of them the others still cover the model.
        let swarm = ToySwarm::start(Settings::spans(&[(0, 18), (12, 30), (0, 22), (9, 30)])).await;
        let router = swarm.router(100).await;
        let (mut tokens, mut routes) = (0, Vec::new());
        let mut watch = |step: Step<'_>| match step {
            Step::Route(to) | Step::Moved(_, to) => {
                routes.push(to.stages.iter().map(|stage| (stage.node, stage.span)).collect::<Vec<_>>());
            }
            Step::Token(..) => {
                tokens += 1;
                if tokens == 30 {
                    let victim = (0..4).find(|&node| swarm.id(node) == routes[0][stage].0).unwrap();
                    swarm.faults[victim].freeze();
                }
            }
            Step::Retry(error) => panic!("{error}"),
            Step::Rest(_) => {}
        };
        let reply = router.watch(&request(&PROMPT, 100), &mut watch).await.unwrap();
        assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 100));
        assert_eq!((routes.len(), routes[0].len()), (2, 2), "{routes:?}");
        let lost = routes[0][stage].0;
        assert!(routes[1].iter().all(|&(node, _)| node != lost), "{routes:?}");
        swarm.faults.iter().for_each(proto_transport::testing::Faults::thaw);
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}
