//! Answers in any company: many sessions of two routers at once, some with a common beginning, some given up, one node
//! dying among them, whose sessions another one takes over. Every answer is what the model says when it is asked alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::session::SamplingParams;
use proto::{NodeId, Position};
use proto_sampling::{Sampler, Scratch, TokenCounts};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use router::generate::{Finish, GenerateError, GenerateRequest, Step};
use router::model::Prompt;
use shard_node_stage::ToyModel;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::pieces::slow_rows;
use crate::swarm::{LAYERS, PATIENCE, Settings, TestRouter, ToySwarm, metric, request};

const SESSIONS: usize = 40;
/// Of them, those that begin together.
const AT_ONCE: usize = 24;

/// One request, and after how many tokens its client goes.
struct Case {
    prompt: Vec<u32>,
    request: GenerateRequest,
    gives_up_after: Option<usize>,
}

impl Case {
    fn draw(rng: &mut StdRng) -> Self {
        // Often a piece of one beginning of several blocks.
        let shared = if rng.random_bool(0.6) { rng.random_range(0..300) } else { 0 };
        let own = rng.random_range(1..40);
        let prompt: Vec<u32> = (0..shared)
            .map(|at| (at * 13 + at / 64) % 64)
            .chain((0..own).map(|_| rng.random_range(0..64)))
            .collect();
        let mut request = request(&prompt, rng.random_range(1..80));
        if rng.random_bool(0.5) {
            request.sampling = SamplingParams {
                temperature: rng.random_range(0.3..2.0),
                top_p: rng.random_range(0.5..1.0),
                repetition_penalty: 1.1,
                seed: rng.random(),
                ..SamplingParams::default()
            };
        }
        request.credit = rng.random_range(1..64);
        request.prompt = Prompt::TokenIds(prompt.clone());
        let gives_up_after = rng.random_bool(0.25).then(|| rng.random_range(0..30));
        Self { prompt, request, gives_up_after }
    }

    /// The model's own answer, token by token over the whole sequence.
    fn truth(&self, model: &ToyModel) -> Vec<u32> {
        let sampler = Sampler::new(&self.request.sampling, model.vocab as usize).unwrap();
        let mut counts = TokenCounts::from_prompt(&self.prompt);
        let (mut tokens, mut scratch) = (self.prompt.clone(), Scratch::default());
        for _ in 0..self.request.max_tokens {
            let mut logits = model.logits(&tokens);
            let position = Position::new(tokens.len() as u32);
            let token = sampler.sample(&mut logits, &counts, position, None, &mut scratch).unwrap().token;
            counts.push_generated(token);
            tokens.push(token);
        }
        tokens.split_off(self.prompt.len())
    }
}

/// How an answer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Whole,
    GivenUp,
}

async fn play(
    router: &TestRouter,
    model: ToyModel,
    case: Case,
    told: Arc<AtomicUsize>,
    (victim, moves): (NodeId, Arc<AtomicUsize>),
) -> End {
    let truth = case.truth(&model);
    let cancel = CancellationToken::new();
    if case.gives_up_after == Some(0) {
        cancel.cancel();
    }
    let mut came = Vec::new();
    let mut watch = |step: Step<'_>| match step {
        Step::Moved(lost, route) => {
            // Nobody else is blamed, and nobody else's sessions move.
            assert_eq!(lost.avoid(), Some(victim), "{lost}");
            assert!(route.stages.iter().all(|stage| stage.node != victim));
            moves.fetch_add(1, Ordering::Relaxed);
        }
        Step::Token(timed, _) => {
            came.push(timed.token.token);
            told.fetch_add(1, Ordering::Relaxed);
            if case.gives_up_after == Some(came.len()) {
                cancel.cancel();
            }
        }
        Step::Route(_) | Step::Retry(_) | Step::Rest(_) => {}
    };
    let answer = timeout(PATIENCE, router.router.generate(&case.request, &mut watch, &cancel)).await;
    let answer = answer.expect("an answer or an error should come");
    assert_eq!(came, truth[..came.len()], "prompt {:?}", case.prompt);
    match answer {
        Ok(reply) => {
            assert_eq!(reply.token_ids, truth[..reply.token_ids.len()]);
            if reply.finish == Finish::Cancelled {
                let gives_up_after = case.gives_up_after.expect("nobody cancels but a client that gives up");
                assert!(came.len() >= gives_up_after, "{} tokens came of {gives_up_after}", came.len());
                return End::GivenUp;
            }
            assert_eq!(reply.token_ids.len(), truth.len());
            End::Whole
        }
        Err(GenerateError::Cancelled) => {
            // Later it is a reply with what came.
            assert_eq!(case.gives_up_after, Some(0), "nobody cancels but a client that gives up");
            End::GivenUp
        }
        Err(error) => panic!("after {} tokens: {error}", came.len()),
    }
}

/// How the sessions of some runs ended.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    whole: usize,
    /// Answers that went on over another route.
    moves: usize,
    /// Prompt rows that nodes held already.
    skipped: usize,
    /// Pauses of chunks.
    pauses: usize,
}

impl Tally {
    async fn of(seeds: std::ops::RangeInclusive<u64>) -> Self {
        let mut sum = Self::default();
        for seed in seeds {
            let one = run(seed).await;
            sum.whole += one.whole;
            sum.moves += one.moves;
            sum.skipped += one.skipped;
            sum.pauses += one.pauses;
        }
        sum
    }

    /// Something of everything: otherwise a run says nothing.
    fn is_telling(self) -> bool {
        self.whole > 0 && self.moves > 0 && self.skipped > 0 && self.pauses > 0
    }
}

async fn run(seed: u64) -> Tally {
    let mut rng = StdRng::seed_from_u64(seed);
    eprintln!("seed {seed}");
    // Two nodes for each span of a drawn split.
    let mut cuts: Vec<u32> =
        (0..rng.random_range(0..3)).map(|_| rng.random_range(1..LAYERS)).chain([0, LAYERS]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let spans: Vec<_> = cuts.windows(2).flat_map(|pair| [(pair[0], pair[1]); 2]).collect();
    // Rows take their time, so that chunks are computed in pieces.
    let hook = |_| Some(slow_rows(ROW, |_| {}));
    let swarm = ToySwarm::start(Settings { seed, hook, ..Settings::spans(&spans) }).await;
    let routers = [Arc::new(swarm.router(100).await), Arc::new(swarm.router(101).await)];
    let (model, told) = (swarm.model, Arc::new(AtomicUsize::new(0)));
    let victim = rng.random_range(0..swarm.nodes.len());
    let dies = !seed.is_multiple_of(3);
    let dies_after = rng.random_range(1..400);
    let (over, mut running) = (Arc::new(Notify::new()), JoinSet::new());
    let (lost, moves) = (swarm.id(victim), Arc::new(AtomicUsize::new(0)));
    let sessions = (0..SESSIONS).map(|session| {
        let (router, case, told) =
            (Arc::clone(&routers[session % 2]), Case::draw(&mut rng), Arc::clone(&told));
        let moved = (lost, Arc::clone(&moves));
        async move { play(&router, model, case, told, moved).await }
    });
    let mut sessions: Vec<_> = sessions.collect();
    // The others come when some have ended, whose rows they may reuse.
    for session in sessions.drain(..AT_ONCE) {
        running.spawn(session);
    }
    let ended = Arc::clone(&over);
    let death = async {
        let mut look = tokio::time::interval(Duration::from_millis(1));
        let due = async {
            while told.load(Ordering::Relaxed) < dies_after {
                look.tick().await;
            }
        };
        tokio::select! { () = due => {}, () = ended.notified() => {} }
        if dies {
            swarm.faults[victim].freeze();
        }
    };
    let answers = async {
        let mut ends = Vec::new();
        while let Some(end) = running.join_next().await {
            ends.push(end.unwrap());
            if let Some(session) = sessions.pop() {
                running.spawn(session);
            }
        }
        over.notify_one();
        ends
    };
    let ((), ends) = tokio::join!(death, answers);
    let count = |wanted| ends.iter().filter(|&&end| end == wanted).count();
    let (whole, given_up) = (count(End::Whole), count(End::GivenUp));
    let moves = moves.load(Ordering::Relaxed);
    let counted = |name| swarm.nodes.iter().map(|node| metric(node, name)).sum();
    let skipped = counted("shard_node_prefix_skipped_rows_total");
    let pauses = counted("shard_node_prefill_pauses_total");
    eprintln!(
        "{spans:?}, death {dies}: {whole} whole, {given_up} given up, {moves} moved, {skipped} rows reused, {pauses} pauses"
    );
    assert_eq!(whole + given_up, SESSIONS);
    assert!(dies || moves == 0, "nothing died and answers moved");
    swarm.faults[victim].thaw();
    swarm.wait_until_idle().await;
    for router in routers {
        Arc::into_inner(router).expect("all sessions are over").shutdown().await;
    }
    swarm.shutdown().await;
    Tally { whole, moves, skipped, pauses }
}

/// What one row of a prompt takes: a chunk of two hundred is computed in two pieces and more.
const ROW: Duration = Duration::from_micros(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_the_models_whoever_comes_goes_or_dies() {
    let tally = Tally::of(1..=6).await;
    assert!(tally.is_telling(), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes some minutes"]
async fn soak_answers_are_the_models_whoever_comes_goes_or_dies() {
    let tally = Tally::of(1000..=1049).await;
    assert!(tally.is_telling(), "{tally:?}");
}
