//! One schedule from its beginning to its end: streams that are held against the model, faults as they fall due, and what
//! must be left when all is over.

mod left;
mod strike;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::ready;
use std::time::Duration;

use proto::status::CloseCode;
use proto::{LayerSpan, NodeId};
use proto_transport::testing::Faults;
use router::generate::{Finish, GenerateError, Reply, Step};
use router::session::SessionError;
use shard_node::node::Node;
use shard_node_stage::ToyModel;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::draw::{Due, LAYERS, Schedule, Stream};
use super::tally::Tally;
use super::truth::truth;
use crate::swarm::{PATIENCE, Settings, TestRouter, ToySwarm, metric, served};

/// Plays a schedule; `at_work` is given back when its streams are over and only leases are waited for.
pub(super) async fn run(schedule: Schedule, at_work: OwnedSemaphorePermit) -> Result<Tally, String> {
    let schedule = Arc::new(schedule);
    let (play, mut leaving) = Play::start(&schedule).await;
    let mut streams = JoinSet::new();
    for number in 0..schedule.streams.len() {
        let (play, schedule) = (Arc::clone(&play), Arc::clone(&schedule));
        streams.spawn(async move {
            let ended = play.answer(number, &schedule.streams[number]).await;
            // Others wait for tokens that will not come any more.
            play.told.send_modify(|(_, over)| *over = true);
            ended.map_err(|why| format!("stream {number}: {why}"))
        });
    }
    let mut leavers = JoinSet::new();
    let mut look = interval(Duration::from_millis(250));
    let mut outcome = Ok(());
    loop {
        tokio::select! {
            ended = streams.join_next() => match ended {
                Some(ended) => {
                    let ended = ended.map_err(|error| error.to_string()).flatten();
                    outcome = outcome.and(ended);
                }
                None => break,
            },
            Some((node, orderly)) = leaving.recv() => {
                let Some(node) = play.lock().nodes[node].take() else { continue };
                leavers.spawn(async move { if orderly { node.shutdown().await } else { node.stop_now().await } });
            },
            _ = look.tick() => {
                let bounds = play.check_bounds();
                outcome = outcome.and(bounds);
            }
        }
    }
    play.heal();
    if outcome.is_ok() {
        outcome = play.after(at_work, &mut leavers).await;
    }
    // Those that failed, too: nodes that go on would take time from other schedules.
    let tally = play.stop().await;
    leavers.join_all().await;
    outcome.map(|()| tally)
}

/// A swarm at work.
struct Play {
    model: ToyModel,
    boundary_bytes: Option<u64>,
    ids: Vec<NodeId>,
    addrs: Vec<SocketAddr>,
    faults: Vec<Faults>,
    routers: Vec<TestRouter>,
    schedule: Arc<Schedule>,
    swarm: tokio::sync::Mutex<ToySwarm>,
    /// Tokens that have come to all, and whether a stream is over.
    told: watch::Sender<(u32, bool)>,
    leaving: mpsc::Sender<(usize, bool)>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Those that did not leave.
    nodes: Vec<Option<Node>>,
    due: VecDeque<Due>,
    /// Nodes that were taken away.
    struck: BTreeSet<usize>,
    last: Option<usize>,
    /// Since when nobody holds the span that all lose.
    gone: Option<Instant>,
    /// By stream.
    routes: BTreeMap<usize, Vec<NodeId>>,
    tally: Tally,
}

impl Play {
    async fn start(schedule: &Arc<Schedule>) -> (Arc<Self>, mpsc::Receiver<(usize, bool)>) {
        let model = ToyModel::new(LAYERS);
        let boundary_bytes = schedule.boundary_rows.map(|rows| rows * ROW_BYTES);
        let settings = Settings {
            model,
            served: served(model, &[], None),
            spans: schedule.spans.clone(),
            seed: schedule.seed,
            boundary_bytes,
            ..Settings::split(1)
        };
        let mut swarm = ToySwarm::start_silently(settings).await;
        let mut routers = Vec::new();
        for number in 0..schedule.routers {
            routers.push(swarm.router(100 + number as u8).await);
        }
        let nodes = std::mem::take(&mut swarm.nodes);
        // Bounded by the nodes: each leaves once.
        let (leaving, left) = mpsc::channel(nodes.len());
        let play = Self {
            model,
            boundary_bytes,
            ids: nodes.iter().map(|node| node.ready().node).collect(),
            addrs: nodes.iter().map(|node| node.ready().listen).collect(),
            faults: swarm.faults.clone(),
            routers,
            schedule: Arc::clone(schedule),
            swarm: tokio::sync::Mutex::new(swarm),
            told: watch::Sender::new((0, false)),
            leaving,
            inner: Mutex::new(Inner {
                nodes: nodes.into_iter().map(Some).collect(),
                due: schedule.faults.iter().copied().collect(),
                ..Inner::default()
            }),
        };
        (Arc::new(play), left)
    }

    /// The life of one stream.
    async fn answer(&self, number: usize, stream: &Stream) -> Result<(), String> {
        let truth = truth(self.model, stream);
        let mut told = self.told.subscribe();
        // The sender lives as long as this does.
        let _ = told.wait_for(|&(told, over)| over || told >= stream.begins_after).await;
        let begun = Instant::now();
        let (cancel, tired) = (CancellationToken::new(), AtomicBool::new(false));
        if stream.gives_up_after == Some(0) {
            cancel.cancel();
        }
        let (mut came, mut wrong, mut past) = (Vec::new(), None, Vec::new());
        let mut watch = |step: Step<'_>| match step {
            Step::Route(route) => self.note_route(number, route),
            Step::Retry(lost) => {
                self.lock().tally.retries += 1;
                past.push(lost.to_string());
                wrong = wrong.take().or_else(|| breach(lost));
            }
            Step::Moved(lost, route) => {
                self.note_route(number, route);
                self.lock().tally.moves += 1;
                past.push(lost.to_string());
                wrong = wrong.take().or_else(|| breach(lost));
            }
            Step::Token(timed, _) => {
                let expected = stream.prompt.len() + came.len();
                if timed.token.position.get() as usize != expected {
                    wrong.get_or_insert_with(|| format!("position {} for {expected}", timed.token.position));
                }
                came.push(timed.token.token);
                self.came();
                if stream.gives_up_after == Some(came.len()) {
                    cancel.cancel();
                }
                let pauses = |(every, _): &(usize, Duration)| came.len().is_multiple_of(*every);
                tired.store(stream.pauses.as_ref().is_some_and(pauses), Ordering::Relaxed);
            }
            Step::Rest(_) => {}
        };
        let router = &self.routers[stream.router].router;
        let answer = router.generate(&stream.request, &mut watch, &cancel);
        let pause = stream.pauses.map_or(Duration::ZERO, |(_, pause)| pause);
        let answer = timeout(PATIENCE, read(answer, &tired, pause)).await;
        let answer = answer.map_err(|_| format!("hangs after {} tokens", came.len()))?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if came != truth[..came.len().min(truth.len())] {
            return Err(format!("{came:?} instead of {truth:?}"));
        }
        let judged = self.judge(stream, (&came, truth.len()), begun, answer);
        judged.map_err(|why| format!("{why}; before: {past:?}; struck: {:?}", self.lock().struck))
    }

    /// Whether an answer may end so, with these tokens of so many.
    fn judge(
        &self,
        stream: &Stream,
        (came, all): (&[u32], usize),
        begun: Instant,
        answer: Result<Reply, GenerateError>,
    ) -> Result<(), String> {
        let credit = stream.request.credit as usize;
        let mut inner = self.lock();
        match answer {
            Ok(reply) if reply.token_ids != came => Err("the reply has other tokens".into()),
            Ok(reply) if reply.finish == Finish::Cancelled => match stream.gives_up_after {
                // What was under way comes still.
                Some(after) if (after..=after + 2 * credit + 1).contains(&came.len()) => {
                    inner.tally.given_up += 1;
                    Ok(())
                }
                after => {
                    Err(format!("cancelled after {} tokens, the client went after {after:?}", came.len()))
                }
            },
            Ok(reply) if (reply.finish, came.len()) == (Finish::Length, all) => {
                if stream.gives_up_after.is_some_and(|after| after + 2 * credit + 1 < all) {
                    return Err("its client went long before and it went on".into());
                }
                inner.tally.whole += 1;
                Ok(())
            }
            Ok(reply) => Err(format!("{:?} after {} tokens of {all}", reply.finish, came.len())),
            Err(GenerateError::Cancelled) if came.is_empty() && stream.gives_up_after.is_some() => {
                inner.tally.given_up += 1;
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                let (Some(gone), Some(span)) = (inner.gone, self.schedule.nobody_left) else {
                    return Err(format!("after {} tokens of {all}: {text}", came.len()));
                };
                if !names(&text, span) {
                    return Err(format!("it does not name layers {span}: {text}"));
                }
                let took = gone.max(begun).elapsed();
                if took > NOBODY_LEFT {
                    return Err(format!("only after {took:?}: {text}"));
                }
                inner.tally.cut_off += 1;
                Ok(())
            }
        }
    }

    /// When the streams are over: whether answers come again where nobody was left, and what is left.
    async fn after(&self, at_work: OwnedSemaphorePermit, leavers: &mut JoinSet<()>) -> Result<(), String> {
        if let Some(span) = self.schedule.nobody_left {
            self.comes_back(span).await?;
        }
        drop(at_work);
        let over = async {
            while leavers.join_next().await.is_some() {}
            self.left_over().await;
        };
        let left = timeout(PATIENCE, over).await;
        left.map_err(|_| format!("left: {}{}", self.open(), self.kept()))
    }

    /// Another node takes the place of those that are gone, and answers are whole again.
    async fn comes_back(&self, span: LayerSpan) -> Result<(), String> {
        let mut swarm = self.swarm.lock().await;
        swarm.add(span, served(self.model, &[], None), None).await;
        let stream = Stream {
            router: 0,
            begins_after: 0,
            prompt: vec![3, 1, 4],
            request: crate::swarm::request(&[3, 1, 4], 5),
            gives_up_after: None,
            pauses: None,
        };
        let reply = timeout(PATIENCE, self.routers[0].generate(&stream.request)).await;
        let reply = reply.map_err(|_| "hangs when there is a node again")?;
        let reply = reply.map_err(|error| format!("with a node for {span} again: {error}"))?;
        if reply.token_ids == truth(self.model, &stream) {
            Ok(())
        } else {
            Err("another answer at last".into())
        }
    }

    async fn stop(&self) -> Tally {
        let (nodes, mut tally) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.nodes), std::mem::take(&mut inner.tally))
        };
        let mut stopping = JoinSet::new();
        let added = std::mem::take(&mut self.swarm.lock().await.nodes);
        for node in nodes.into_iter().flatten().chain(added) {
            tally.resumed += metric(&node, "shard_node_sessions_resumed_total");
            tally.replayed += metric(&node, "shard_node_replayed_rows_total");
            tally.evicted += metric(&node, "shard_node_boundary_evictions_total");
            stopping.spawn(node.stop_now());
        }
        for router in &self.routers {
            router.router.shutdown().await;
        }
        stopping.join_all().await;
        tally
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads an answer; whoever is `tired` does not for a while.
async fn read<T>(answer: impl Future<Output = T>, tired: &AtomicBool, pause: Duration) -> T {
    let mut answer = pin!(answer);
    let mut waits = None;
    std::future::poll_fn(move |context| {
        loop {
            if let Some(wait) = &mut waits {
                let wait: &mut std::pin::Pin<Box<tokio::time::Sleep>> = wait;
                ready!(wait.as_mut().poll(context));
                waits = None;
            }
            let polled = answer.as_mut().poll(context);
            if polled.is_ready() || !tired.swap(false, Ordering::Relaxed) {
                return polled;
            }
            waits = Some(Box::pin(sleep(pause)));
        }
    })
    .await
}

/// Whether an error names these layers, and not only others whose number begins like theirs.
fn names(error: &str, span: LayerSpan) -> bool {
    let words = format!("layers {span}");
    let longer = |rest: &str| rest.starts_with(|next: char| next.is_ascii_digit());
    error.match_indices(&words).any(|(at, _)| !longer(&error[at + words.len()..]))
}

/// Nothing that befalls a network makes a stage break the rules, nor any of them refuse its rows.
fn breach(error: &SessionError) -> Option<String> {
    let breaks = match error {
        SessionError::Violation { .. } | SessionError::WrongDigest { .. } => true,
        SessionError::GaveUp { code, .. } => {
            matches!(code, CloseCode::Protocol | CloseCode::Compute | CloseCode::Overload)
        }
        _ => false,
    };
    breaks.then(|| error.to_string())
}

/// Five times the limit (2 s): other schedules run beside this one.
const NOBODY_LEFT: Duration = Duration::from_secs(10);
/// Of the toy model.
const ROW_BYTES: u64 = 32;
