//! Long prompts that are computed in pieces, with others' rows between them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use router::generate::{Finish, GenerateError, Step};
use shard_node_stage::{StepGroup, StepHook};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::swarm::{Settings, ToySwarm, metric, request};

/// Lets each row of a prompt take at least this long, and tells of every step that begins.
pub(crate) fn slow_rows(row: Duration, mut tell: impl FnMut(&[StepGroup]) + Send + 'static) -> StepHook {
    Box::new(move |groups| {
        tell(groups);
        let rows: u32 = groups.iter().map(|group| group.rows).filter(|&rows| rows > 1).sum();
        let (begun, takes) = (now(), row * rows);
        while begun.elapsed() < takes {
            std::thread::park_timeout(takes.saturating_sub(begun.elapsed()));
        }
        Ok(())
    })
}

/// Rows of the steps of a node, in order.
static STEPS: Mutex<Vec<u32>> = Mutex::new(Vec::new());
/// A step with so many rows has begun.
static BEGUN: Mutex<Option<(u32, Arc<Notify>)>> = Mutex::new(None);

fn note(groups: &[StepGroup]) {
    let rows = groups.iter().map(|group| group.rows).sum();
    STEPS.lock().unwrap().push(rows);
    if let Some((least, begun)) = &*BEGUN.lock().unwrap()
        && rows >= *least
    {
        begun.notify_one();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_go_on_while_a_long_prompt_is_computed_and_one_given_up_leaves_nothing() {
    let hook = |_| Some(slow_rows(Duration::from_millis(1), note));
    let swarm = ToySwarm::start(Settings { hook, ..Settings::split(1) }).await;
    let router = swarm.router(100).await;
    let long: Vec<u32> = (0..400).map(|at| at * 7 % 64).collect();
    let steady = request(&[1, 2, 3], 4000);
    let (ends, decodes) = (CancellationToken::new(), Notify::new());
    let mut came = Vec::new();
    let mut watch = |step: Step<'_>| {
        if let Step::Token(timed, _) = step {
            came.push(timed.token.token);
            decodes.notify_one();
        }
    };
    let answer = router.router.generate(&steady, &mut watch, &ends);
    let others = async {
        decodes.notified().await;
        let whole = router.generate(&request(&long, 5)).await.unwrap();
        assert_eq!(whole.token_ids, swarm.model.answer(&long, 5));
        let (steps, pauses) =
            (STEPS.lock().unwrap().clone(), metric(&swarm.nodes[0], "shard_node_prefill_pauses_total"));
        let first = steps.iter().position(|&rows| rows > 4).unwrap();
        let last = steps.iter().rposition(|&rows| rows > 4).unwrap();
        let chunks = steps[first..=last].iter().filter(|&&rows| rows > 4).count();
        let between = last + 1 - first - chunks;
        eprintln!("{chunks} chunks, {pauses} pauses, {between} steps of the other between them");
        // Of the first ones nothing is known and they are small; in the end a chunk of 150 ms has six pieces or so.
        assert!(pauses >= 2 * chunks, "{pauses} pauses of {chunks} chunks: {steps:?}");
        // The other's next row is always ready: each pause is used. The last chunk's may come after it.
        assert!(between + pauses / chunks.max(1) >= pauses, "{between} steps in {pauses} pauses: {steps:?}");

        // Given up in the middle of a chunk.
        let other: Vec<u32> = long.iter().map(|token| 63 - token).collect();
        let (gone, begun) = (CancellationToken::new(), Arc::new(Notify::new()));
        *BEGUN.lock().unwrap() = Some((65, Arc::clone(&begun)));
        let given_up = request(&other, 5);
        let mut nothing = |_: Step<'_>| {};
        let given_up = router.router.generate(&given_up, &mut nothing, &gone);
        let leave = async {
            begun.notified().await;
            gone.cancel();
        };
        let (reply, ()) = tokio::join!(given_up, leave);
        match reply {
            Err(GenerateError::Cancelled) => {}
            Ok(reply) => assert_eq!((reply.finish, reply.token_ids.len()), (Finish::Cancelled, 0)),
            Err(other) => panic!("{other}"),
        }
        let again = router.generate(&request(&other, 5)).await.unwrap();
        assert_eq!(again.token_ids, swarm.model.answer(&other, 5));
        ends.cancel();
    };
    let (reply, ()) = tokio::join!(answer, others);
    assert_eq!(reply.unwrap().finish, Finish::Cancelled);
    // The model's own answer takes the square of its length.
    came.truncate(300);
    assert_eq!(came, swarm.model.answer(&[1, 2, 3], came.len()));
    swarm.wait_until_idle().await;
    router.shutdown().await;
    swarm.shutdown().await;
}

#[expect(clippy::disallowed_methods, reason = "a toy's step takes real time")]
fn now() -> Instant {
    Instant::now()
}
