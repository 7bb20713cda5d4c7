//! Stages on machines of their own work at the same time: a step takes a fixed time, whatever the test's machine does.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use shard_node_stage::StepHook;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::swarm::{Settings, ToySwarm, request};

/// Far above what the protocol and a busy machine add to it.
const STEP: Duration = Duration::from_millis(40);
const STAGES: u32 = 4;
const TOKENS: u32 = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_do_not_wait_for_each_others_steps() {
    // Nothing is ever sent: a step is over when the wait is.
    let hook: fn(usize) -> Option<StepHook> = |_| {
        let (keep, never) = mpsc::channel::<()>();
        Some(Box::new(move |_| {
            let _open = &keep;
            let _ = never.recv_timeout(STEP);
            Ok(())
        }))
    };
    let swarm = Arc::new(ToySwarm::start(Settings { hook, ..Settings::split(STAGES) }).await);
    let router = Arc::new(swarm.router(100).await);
    // Manifest and connections.
    router.generate(&request(&[1], 1)).await.unwrap();
    for count in [4u32, 8] {
        let mut sessions = JoinSet::new();
        let begun = Instant::now();
        for number in 0..count {
            let (router, swarm) = (Arc::clone(&router), Arc::clone(&swarm));
            sessions.spawn(async move {
                let prompt = [number, 7];
                let reply = router.generate(&request(&prompt, TOKENS)).await.unwrap();
                assert_eq!(reply.token_ids, swarm.model.answer(&prompt, TOKENS as usize));
            });
        }
        while let Some(session) = sessions.join_next().await {
            session.unwrap();
        }
        let took = begun.elapsed();
        // A token takes a step of each stage. Prompts enter one by one, a step each, before rounds are regular.
        let rounds = STEP * (STAGES * TOKENS + count);
        let share = rounds.as_secs_f64() / took.as_secs_f64();
        let steps = f64::from(count * TOKENS * STAGES) / took.as_secs_f64() * STEP.as_secs_f64();
        eprintln!("{count} sessions: {took:?}, {share:.3} of the best, {steps:.2} row-steps a step's time");
        assert!(share >= 0.9, "{count} sessions took {took:?}, {rounds:?} of it steps");
        assert!(steps >= 0.85 * f64::from(count.min(STAGES)), "{steps} of {STAGES} stages at work");
    }
}
