//! Answers are what the model computed in one piece gives, whatever the split, the company and the network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proto_transport::testing::Link;
use router::generate::{Finish, Step};
use router::model::Prompt;
use shard_node_stage::StepHook;
use tokio::task::JoinSet;

use crate::swarm::{Settings, ToySwarm, request, served, word_tokenizer};

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_to_five_stages_give_the_models_answer() {
    for parts in 1..=5 {
        let swarm = ToySwarm::start(Settings::split(parts)).await;
        let router = swarm.router(100).await;
        let reply = router.generate(&request(&PROMPT, 40)).await.unwrap();
        assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 40), "{parts} stages");
        assert_eq!(reply.prompt_token_ids, PROMPT);
        assert_eq!((reply.stages.len(), reply.finish), (parts as usize, Finish::Length));
        assert!(
            reply.hops.iter().all(|hop| hop.compute_ms.is_some()),
            "every account came: {:?}",
            reply.hops
        );
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_found_through_the_dht_gives_the_models_answer() {
    let swarm = ToySwarm::start(Settings { dht: true, ..Settings::split(3) }).await;
    let router = swarm.router(100).await;
    let reply = router.generate(&request(&PROMPT, 20)).await.unwrap();
    assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 20));
    // Without a name the only model is taken.
    let reply = router
        .generate(&router::generate::GenerateRequest { model: None, ..request(&PROMPT, 5) })
        .await
        .unwrap();
    assert_eq!((reply.model.as_str(), reply.token_ids.len()), ("toy", 5));
    router.shutdown().await;
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_several_routers_at_once_do_not_mix() {
    let swarm = Arc::new(ToySwarm::start(Settings::split(3)).await);
    let mut sessions = JoinSet::new();
    let routers = [Arc::new(swarm.router(100).await), Arc::new(swarm.router(101).await)];
    for number in 0..32u32 {
        let (router, model) = (Arc::clone(&routers[number as usize % 2]), swarm.model);
        sessions.spawn(async move {
            // Prompts of different lengths, one of them of several chunks.
            let prompt: Vec<u32> = (0..=(number * 11)).map(|i| (i * 7 + number) % 64).collect();
            let reply = router.generate(&request(&prompt, 30)).await.unwrap();
            assert_eq!(reply.token_ids, model.answer(&prompt, 30), "session {number}");
        });
    }
    while let Some(done) = sessions.join_next().await {
        done.unwrap();
    }
    swarm.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_end_at_eos_at_a_stop_string_and_where_the_context_does() {
    let settings = Settings::split(2);
    let answer = settings.model.answer(&PROMPT, 30);
    // The first token that did not occur before makes an end that can only be met there.
    let at = (5..30).find(|&at| !answer[..at].contains(&answer[at])).unwrap();
    let served = served(settings.model, &[answer[at]], Some(&word_tokenizer(64)));
    let swarm = ToySwarm::start(Settings { served, ..settings }).await;
    let router = swarm.router(100).await;

    let reply = router.generate(&request(&PROMPT, 200)).await.unwrap();
    assert_eq!((&reply.token_ids[..], reply.finish), (&answer[..=at], Finish::Stop));
    let words = |ids: &[u32]| ids.iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ");
    assert_eq!(reply.text, words(&answer[..at]), "an end-of-sequence id is no text");

    let mut streamed = String::new();
    let stop = format!("w{} w{}", answer[2], answer[3]);
    let wanted = router::generate::GenerateRequest { stop: vec![stop], ..request(&PROMPT, 200) };
    let reply = router
        .watch(&wanted, &mut |step| {
            if let Step::Token(_, text) | Step::Rest(text) = step {
                streamed.push_str(text);
            }
        })
        .await
        .unwrap();
    assert_eq!(reply.finish, Finish::Stop);
    assert_eq!(reply.text, format!("{} ", words(&answer[..2])));
    assert_eq!(streamed, reply.text);

    let text =
        router::generate::GenerateRequest { prompt: Prompt::Text(words(&PROMPT)), ..request(&PROMPT, 3) };
    let reply = router.generate(&text).await.unwrap();
    assert_eq!((&reply.prompt_token_ids[..], reply.finish), (&PROMPT[..], Finish::Length));
    assert_eq!(reply.token_ids, answer[..3]);

    let prompt = vec![9; 4090];
    let reply = router.generate(&request(&prompt, 200)).await.unwrap();
    assert_eq!((reply.token_ids.len(), reply.finish), (6, Finish::Length), "4,096 positions are the context");
    swarm.wait_until_idle().await;
}

/// Rows that stage 0 started beyond the prompt, and what the client has read.
static STARTED: AtomicU32 = AtomicU32::new(0);
static READ: AtomicU32 = AtomicU32::new(0);
static WORST: AtomicU32 = AtomicU32::new(0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_never_run_past_the_credit_of_a_slow_client() {
    const CREDIT: u32 = 6;
    let count: fn(usize) -> Option<StepHook> = |stage| {
        (stage == 0).then(|| -> StepHook {
            Box::new(|groups| {
                let end = groups.iter().map(|group| group.start.get() + group.rows).max().unwrap_or(0);
                let started = end.saturating_sub(PROMPT.len() as u32);
                STARTED.store(started, Ordering::SeqCst);
                WORST.fetch_max(started.saturating_sub(READ.load(Ordering::SeqCst)), Ordering::SeqCst);
                Ok(())
            })
        })
    };
    let swarm = ToySwarm::start(Settings { hook: count, ..Settings::split(3) }).await;
    let router = swarm.router(100).await;
    let (model, mut view) = router.router.model(None).await.unwrap();
    let wanted = router::generate::GenerateRequest { credit: CREDIT, ..request(&PROMPT, 50) };
    let mut read = 0;
    let mut slow = |step: Step<'_>| {
        if let Step::Token(..) = step {
            // The client takes the next token only when the nodes have used up all credit.
            let target = (read + CREDIT).min(49);
            while STARTED.load(Ordering::SeqCst) + 1 < target {
                std::thread::yield_now();
            }
            read += 1;
            READ.store(read, Ordering::SeqCst);
        }
    };
    let cancel = tokio_util::sync::CancellationToken::new();
    let reply = router.router.generate_on(&model, &mut view, &wanted, &mut slow, &cancel).await.unwrap();
    assert_eq!(reply.token_ids, swarm.model.answer(&PROMPT, 50));
    // A token counts as read when the session hands it over, one before the hook above sees it.
    let worst = WORST.load(Ordering::SeqCst);
    assert!(worst <= CREDIT + 1, "{worst} rows ahead of the client");
    assert!(worst >= CREDIT - 1, "the credit is used: {worst}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_and_reordering_change_nothing_but_the_time() {
    let link = Link {
        loss: 0.02,
        duplicate: 0.02,
        reorder: 0.05,
        reorder_by: Duration::from_millis(3),
        ..Link::default()
    };
    for seed in [11, 12] {
        let swarm = ToySwarm::start(Settings { link: Some(link), seed, ..Settings::split(3) }).await;
        let router = swarm.router(100).await;
        let prompt: Vec<u32> = (0..300).map(|i| (i * 5) % 64).collect();
        let reply = router.generate(&request(&prompt, 60)).await.unwrap();
        assert_eq!(reply.token_ids, swarm.model.answer(&prompt, 60), "seed {seed}");
        let dropped: u64 = swarm.faults.iter().map(|faults| faults.counts().dropped).sum();
        assert!(dropped > 0, "the network was too kind to prove anything");
        swarm.wait_until_idle().await;
        router.shutdown().await;
        swarm.shutdown().await;
    }
}
