//! Sessions over real QUIC: answers, admission, generations, accounts, drain.

use std::time::Duration;

use crate::support::{Asked, Swarm, TestRouter, Told, key, served, wait_for_status};
use proto::handshake::ConnectionClass;
use proto::status::{CloseCode, Fetch, RefusalCode};
use proto::{ContentHash, FrameKind, Message, NodeId};
use proto_transport::Target;
use shard_node_stage::ToyModel;

const MODEL: ToyModel = ToyModel::new(6);

fn prompt(length: u32, seed: u32) -> Vec<u32> {
    (0..length).map(|index| (index * 7 + seed * 13 + 5) % 64).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_and_one_node_give_the_models_answer() {
    for parts in [3, 1] {
        let swarm = Swarm::start(MODEL, parts).await;
        let plan = swarm.plan();
        let mut router = TestRouter::new(100);
        for (session, length) in [(1, 1), (2, 300), (3, 17)] {
            let asked = Asked::new(session, &prompt(length, session as u32), 40);
            router.start(&plan, &asked).await;
            let answer = router.tokens(session, usize::MAX).await;
            assert_eq!(answer, MODEL.answer(&asked.prompt, 40), "{parts} stages, session {session}");
            router.close(&plan, &asked, CloseCode::Finished).await;
            for stage in &plan.stages {
                let ended = router.ended(session, stage.node).await;
                assert_eq!((ended.prefill_rows, ended.decode_steps), (length, 39));
            }
        }
        for node in &swarm.nodes {
            wait_for_status(node, "all KV is free", |status| status.kv_reserved == 0).await;
        }
        router.leave().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_side_by_side_do_not_mix() {
    let swarm = Swarm::start(MODEL, 3).await;
    let plan = swarm.plan();
    let mut routers = [TestRouter::new(100), TestRouter::new(101)];
    for session in 0..24_u64 {
        let asked = Asked::new(session, &prompt(1 + session as u32 * 11, session as u32), 20);
        routers[session as usize % 2].start(&plan, &asked).await;
    }
    for session in 0..24_u64 {
        let answer = routers[session as usize % 2].tokens(session, usize::MAX).await;
        let prompt = prompt(1 + session as u32 * 11, session as u32);
        assert_eq!(answer, MODEL.answer(&prompt, 20), "session {session}");
    }
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_goes_on_from_what_was_seen() {
    let swarm = Swarm::start(MODEL, 2).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let mut asked = Asked::new(5, &prompt(9, 1), 30);
    router.start(&plan, &asked).await;
    let seen = router.tokens(5, 4).await;
    let all = MODEL.answer(&asked.prompt, 30);
    assert_eq!(seen, all[..4]);
    let first = asked.prompt.clone();
    asked.generation = 1;
    asked.prompt = [first, seen].concat();
    asked.max_tokens = 26;
    router.open(&plan, &asked).await.unwrap();
    router.prompt(&plan, &asked).await;
    router.credit(&plan, &asked, u32::MAX).await;
    let mut rest = Vec::new();
    while rest.len() < 26 {
        let sampled = router
            .wait("a token of generation 1", |_, told| match told {
                Told::Sampled(sampled) if sampled.generation.get() == 1 => Some(sampled.clone()),
                _ => None,
            })
            .await;
        rest.push(sampled.token);
    }
    assert_eq!(rest, all[4..]);
    asked.generation = 0;
    assert_eq!(router.open(&plan, &asked).await.unwrap_err().code, RefusalCode::Stale);
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_reach_the_router_with_reason_and_words() {
    let swarm = Swarm::start(MODEL, 2).await;
    let mut router = TestRouter::new(100);
    let plan = swarm.plan();
    let asked = |session| Asked::new(session, &[1, 2], 4);
    let mut wrong = plan.clone();
    wrong.model = proto::ModelId::from_bytes([1; 32]);
    assert_eq!(router.open(&wrong, &asked(1)).await.unwrap_err().code, RefusalCode::WrongModel);
    let long = Asked::new(2, &[1], MODEL.context);
    let refusal = router.open(&plan, &long).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::TooLong);
    assert!(refusal.to_string().contains("4096"), "{refusal}");
    // Somebody else answers at stage 0's address: the tail can't reach whom the plan names.
    let mut wrong = plan.clone();
    wrong.stages[0].node = key(99).node_id();
    let refusal = router.open(&wrong, &asked(3)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::HopUnreachable, "{refusal}");
    assert!(refusal.to_string().contains(&key(99).node_id().short()), "{refusal}");
    wait_for_status(&swarm.nodes[1], "a refused session holds nothing", |s| s.kv_reserved == 0).await;
    // The same session may be tried again by another route.
    router.open(&plan, &asked(3)).await.unwrap();
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifest_and_tokenizer_are_served_by_hash() {
    let swarm = Swarm::start(MODEL, 1).await;
    let router = TestRouter::new(100);
    let ready = swarm.nodes[0].ready();
    let target = Target::node(ready.node, ready.listen);
    let connection = router.endpoint.connect(target, ConnectionClass::Bulk).await.unwrap();
    for blob in [served().manifest, served().tokenizer.unwrap()] {
        let fetch = Fetch { hash: ContentHash::of(&blob) };
        let mut answer = connection.call(FrameKind::Fetch, fetch.encode()).await.unwrap();
        let start = answer.recv().await.unwrap().unwrap();
        let start: proto::status::BlobStart = start.decode().unwrap();
        assert_eq!(start.bytes, blob.len() as u64);
        let mut got = Vec::new();
        while let Some(part) = answer.recv().await.unwrap() {
            assert_eq!(part.kind, FrameKind::BlobPart);
            got.extend_from_slice(&part.body);
        }
        assert_eq!(got, blob);
    }
    let fetch = Fetch { hash: ContentHash::of(b"nobody has this") };
    let answer =
        connection.request(FrameKind::Fetch, fetch.encode(), crate::support::PATIENCE).await.unwrap();
    assert_eq!(answer.kind, FrameKind::NotFound);
    assert_eq!(crate::support::remote_status(&connection).await.sessions, 0);
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_announces_itself_and_withdraws() {
    use kademlia_dht::Directory;
    let swarm = Swarm::start(MODEL, 2).await;
    let directory = swarm.directory.member();
    let found = async {
        loop {
            let found = directory.lookup_model_name("toy").await.unwrap();
            if found.len() == 2 {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(crate::support::PATIENCE, found).await.unwrap();
    let ids: Vec<NodeId> = swarm.nodes.iter().map(|node| node.ready().node).collect();
    for record in &found {
        let facts = record.record();
        let index = ids.iter().position(|id| *id == facts.node).unwrap();
        assert_eq!(facts.addresses, [swarm.nodes[index].ready().listen]);
        assert_eq!(facts.offer.as_ref().unwrap().span, swarm.nodes[index].ready().layers.unwrap());
    }
    for node in swarm.nodes {
        node.shutdown().await;
    }
    assert!(directory.lookup_model_name("toy").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_finishes_open_sessions_and_refuses_new_ones() {
    let swarm = Swarm::start(MODEL, 1).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked::new(1, &prompt(5, 1), 30);
    router.open(&plan, &asked).await.unwrap();
    router.prompt(&plan, &asked).await;
    router.tokens(1, 1).await;
    let node = swarm.nodes.into_iter().next().unwrap();
    let connection = router.peers[&plan.stages[0].node].connection.clone();
    let mut drain = tokio::task::JoinSet::new();
    drain.spawn(node.shutdown());
    while !crate::support::remote_status(&connection).await.draining {
        tokio::task::yield_now().await;
    }
    assert_eq!(router.open(&plan, &Asked::new(2, &[1], 1)).await.unwrap_err().code, RefusalCode::Draining);
    router.credit(&plan, &asked, u32::MAX).await;
    let rest = router.tokens(1, usize::MAX).await;
    assert_eq!(rest, MODEL.answer(&asked.prompt, 30)[1..]);
    router.close(&plan, &asked, CloseCode::Finished).await;
    tokio::time::timeout(crate::support::PATIENCE, drain.join_all()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_drain_fails_what_does_not_end() {
    let swarm = Swarm::configured(
        MODEL,
        1,
        |_| None,
        |mut config| {
            config.drain = Duration::from_millis(50);
            config
        },
    )
    .await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let asked = Asked::new(1, &prompt(5, 1), 30);
    router.open(&plan, &asked).await.unwrap();
    let node = swarm.nodes.into_iter().next().unwrap();
    let id = node.ready().node;
    node.shutdown().await;
    let failed = router.failed(1, id).await;
    assert_eq!((failed.code, failed.lost), (CloseCode::ShuttingDown, Some(id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_fails_ends_its_own_session_only() {
    let hook = |_| -> Option<shard_node_stage::StepHook> {
        Some(Box::new(|groups: &[shard_node_stage::StepGroup]| {
            // The stage can't bear prompts of thirteen.
            if groups.iter().any(|group| group.rows == 13) {
                Err(shard_node_stage::StageError::Compute("thirteen".into()))
            } else {
                Ok(())
            }
        }))
    };
    let swarm = Swarm::with_hooks(MODEL, 1, hook).await;
    let plan = swarm.plan();
    let mut router = TestRouter::new(100);
    let (good, bad) = (Asked::new(1, &prompt(5, 1), 200), Asked::new(2, &prompt(13, 1), 9));
    router.start(&plan, &good).await;
    router.tokens(1, 1).await;
    router.start(&plan, &bad).await;
    let failed = router.failed(2, plan.stages[0].node).await;
    assert_eq!(failed.code, CloseCode::Compute);
    assert!(failed.detail.contains("thirteen"), "{failed:?}");
    assert_eq!(router.tokens(1, usize::MAX).await, MODEL.answer(&good.prompt, 200)[1..]);
    swarm.shutdown().await;
}
