//! Where a checked request becomes a running answer: model, prompt, place, session, first token.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::prefix::TenantId;
use proto::session::SamplingParams;
use proto::status::RefusalCode;
use proto_sampling::Sampler;
use proto_text::StopMatcher;
use router_openai::ErrorCode;
use router_plan::Route;
use router_plan::admission::{Priority, Tenant, TurnedAway, Wanted};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::answer::Answer;
use super::bill::Bill;
use super::catalogue::{Catalogue, Served};
use super::config::ServeConfig;
use super::encoders::Encoders;
use super::events::{About, Sum};
use super::gate::Place;
use super::{Asked, Problem};
use crate::clock::unix_seconds;
use crate::driver::Driver;
use crate::generate::{
    AnswerStream, COMPLETE, GenerateRequest, Generations, Piece, Resume, Resumed, Resuming, terms,
};
use crate::model::Prompt;
use crate::router::Router;
use crate::session::{Outcome, SessionError, SessionShare};

/// Takes requests. One for the whole server.
#[derive(Debug)]
pub(super) struct Desk {
    router: Router,
    catalogue: Catalogue,
    config: ServeConfig,
    /// Nodes see tenants through it: they tell them apart and can't guess their names.
    salt: [u8; 32],
    draining: AtomicBool,
    /// Answers under way.
    open: TaskTracker,
    encoders: Encoders,
}

impl Desk {
    pub(super) fn new(router: Router, catalogue: Catalogue, config: ServeConfig, salt: [u8; 32]) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            router,
            catalogue,
            config,
            salt,
            draining: AtomicBool::new(false),
            open: TaskTracker::new(),
            encoders: Encoders::new(cores),
        }
    }

    pub(super) const fn encoders(&self) -> &Encoders {
        &self.encoders
    }

    pub(super) const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(super) const fn router(&self) -> &Router {
        &self.router
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes nothing new, refuses what waits.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.catalogue.close();
        self.open.close();
    }

    /// Waits until no answer is under way. Only after [`Desk::drain`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(super) async fn finished(&self) {
        self.open.wait().await;
    }

    /// Brings a request to its first token. `room` is what its body takes until its prompt has become ids.
    pub(super) async fn answer(
        &self,
        asked: Asked,
        room: impl Send + 'static,
        bill: Arc<Bill>,
        request: String,
        arrived: Instant,
    ) -> Result<Answer, Problem> {
        if self.is_draining() {
            return Err(Problem::draining());
        }
        let open = self.open.token();
        let served = self.catalogue.find(asked.model.as_ref())?;
        Sampler::new(&asked.sampling, served.model.manifest().architecture.vocab as usize)?;
        StopMatcher::new(&asked.stop)?;
        // Before the prompt's text is looked at, which takes time that a refusal should not.
        served.check(&asked.tenant)?;
        let encoding = self.encoders.encode(&served.model, asked.prompt, &asked.tenant, unix_seconds(), room);
        let prompt = encoding.await?;
        let room = served.model.context() - prompt.len() as u32;
        let max_tokens = asked.max_tokens.min(room);
        let positions = prompt.len() as u32 + max_tokens;
        let deadline = asked.deadline.map(|deadline| arrived + deadline);
        let longest_wait = arrived + self.config.queue_for;
        let until = deadline.map_or(longest_wait, |deadline| deadline.min(longest_wait));
        let wanted = |until| Wanted {
            tenant: asked.tenant.clone(),
            priority: asked.priority,
            positions,
            class: asked.class,
            until,
        };
        let share = self.share(&asked.tenant, asked.priority);
        let late = || deadline.is_some_and(|deadline| deadline <= Instant::now());
        let entered = served.gate.enter(wanted, until).await;
        let (place, mut route) = entered.map_err(|refusal| Problem::no_place(refusal, late()))?;
        let queued = arrived.elapsed();
        let mut generate = GenerateRequest {
            answer: asked.answer,
            model: asked.model,
            class: asked.class,
            prompt: Prompt::TokenIds(Vec::new()),
            max_tokens,
            sampling: if asked.draw_seed { with_drawn_seed(asked.sampling)? } else { asked.sampling },
            stop: asked.stop,
            credit: self.config.credit,
            timeout: None,
            standby: self.config.admission.standby,
        };
        loop {
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                generate.timeout = Some(left);
            }
            let started = arrived.elapsed();
            let attempt = Attempt { share, place: &place, markers: &asked.markers };
            let begun = self.begin(&served, &route, prompt.clone(), &generate, attempt).await?;
            let node = match begun {
                Begun::Answering { session, stream, first } => {
                    let about = About {
                        request,
                        session,
                        model: served.model.clone(),
                        route,
                        moves: 0,
                        prompt_tokens: prompt.len(),
                        cached: stream.reused(),
                        queued,
                        started,
                    };
                    let metrics = self.router.metrics().clone();
                    bill.prompt(prompt.len() as u64);
                    return Ok(Answer {
                        stream,
                        about,
                        metrics,
                        sum: Sum::default(),
                        first,
                        bill,
                        _open: open,
                    });
                }
                Begun::Failed(error) => {
                    let Some(node) = error.avoid() else { return Err(error.into()) };
                    let why = turned_away(&error);
                    tracing::info!(%error, "a session did not begin; another place is looked for");
                    (node, why)
                }
            };
            let placed = place.turned_away(node.0, node.1).await;
            route = placed.map_err(|refusal| Problem::no_place(refusal, late()))?;
        }
    }

    /// Starts a session and waits for its first token.
    async fn begin(
        &self,
        served: &Served,
        route: &Route,
        prompt: Vec<u32>,
        request: &GenerateRequest,
        attempt: Attempt<'_>,
    ) -> Result<Begun, Problem> {
        let Attempt { share, place, markers } = attempt;
        let mut terms = terms(&served.model, route, prompt, request.max_tokens, request, share)?;
        terms.evidence = self.router.new_evidence()?;
        let terms = Arc::new(terms);
        let session = terms.session.to_string();
        let elsewhere = Elsewhere {
            driver: self.router.driver().clone(),
            place: place.clone(),
            generations: Arc::new(Mutex::new(Generations::new(Arc::clone(&terms)))),
            views: place.views(),
        };
        let running = self.router.driver().start_holding(terms, place.clone())?;
        let metrics = self.router.metrics().clone();
        let mut stream = AnswerStream::new(running, &served.model, &request.stop, metrics)?;
        stream.show(markers);
        stream.resume_by(elsewhere);
        let first = stream.next().await?;
        if first.is_none()
            && let Some(Outcome::Failed(error)) = stream.outcome()
        {
            return Ok(Begun::Failed(error));
        }
        Ok(Begun::Answering { session, stream: Box::new(stream), first })
    }

    /// How nodes serve it beside others.
    fn share(&self, tenant: &Tenant, priority: Priority) -> SessionShare {
        let name = tenant.to_string();
        let tenant = match &name[..] {
            "" => TenantId::default(),
            name => TenantId::of_key(&self.salt, name.as_bytes()),
        };
        let priority = match priority {
            Priority::Low => proto::session::Priority::Low,
            Priority::Normal => proto::session::Priority::Normal,
            Priority::High => proto::session::Priority::High,
        };
        SessionShare { tenant, priority, ..SessionShare::default() }
    }
}

/// Other places for an answer whose pipeline broke.
#[derive(Debug)]
struct Elsewhere {
    driver: Driver,
    place: Place,
    // Only one generation is made at a time: the lock is never waited for.
    generations: Arc<Mutex<Generations>>,
    /// The views that were looked at.
    views: u64,
}

impl Elsewhere {
    /// The next generation over a route that the place was given.
    fn go_on(
        driver: &Driver,
        place: Place,
        generations: &Mutex<Generations>,
        (route, came): (Route, &[u32]),
    ) -> Result<Resumed, String> {
        let (taken_over, next) = {
            let mut generations = generations.lock().unwrap_or_else(PoisonError::into_inner);
            (generations.takes_over(&route), generations.next(&route, came))
        };
        let session = driver.start_next(next.ok_or(COMPLETE)?, place).map_err(|error| error.to_string())?;
        Ok(Resumed { session, route, taken_over })
    }
}

impl Resume for Elsewhere {
    fn resume(&mut self, lost: &SessionError, came: &[u32]) -> Resuming {
        let (driver, place) = (self.driver.clone(), self.place.clone());
        let (generations, came) = (Arc::clone(&self.generations), came.to_vec());
        let lost = lost.avoid().map(|node| (node, turned_away(lost)));
        Box::pin(async move {
            let lost = lost.ok_or("no node is to blame")?;
            let route = place.lost(lost, PATIENCE).await.map_err(|refusal| refusal.to_string())?;
            Self::go_on(&driver, place, &generations, (route, &came))
        })
    }

    fn hand_over(&mut self, came: &[u32]) -> Option<(SessionError, Resumed)> {
        let views = self.place.views();
        if std::mem::replace(&mut self.views, views) == views {
            return None;
        }
        let (node, route) = self.place.leave()?;
        let leaving = self.generations.lock().unwrap_or_else(PoisonError::into_inner).leaving(node)?;
        match Self::go_on(&self.driver, self.place.clone(), &self.generations, (route, came)) {
            Ok(resumed) => Some((leaving, resumed)),
            Err(why) => {
                tracing::info!(%leaving, why, "an answer stays where it is");
                None
            }
        }
    }
}

/// How long an answer that broke waits for a place on another route: its client sees a pause meanwhile, and those who
/// have places there end now and then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sampling differs from request to request unless a seed was given.
pub(super) fn with_drawn_seed(sampling: SamplingParams) -> Result<SamplingParams, Problem> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)
        .map_err(|error| Problem::new(ErrorCode::Internal, error, "report it with the request's id"))?;
    Ok(SamplingParams { seed: u64::from_le_bytes(seed), ..sampling })
}

/// What an attempt has beside its request.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    share: SessionShare,
    place: &'a Place,
    /// Special tokens that are shown as text.
    markers: &'a [&'static str],
}

/// How an attempt began.
enum Begun {
    Answering { session: String, stream: Box<AnswerStream>, first: Option<Piece> },
    Failed(SessionError),
}

fn turned_away(error: &SessionError) -> TurnedAway {
    match error {
        SessionError::Refused { refusal, .. } if refusal.code == RefusalCode::NoCapacity => {
            TurnedAway::NoCapacity { retry_after: error.retry_after() }
        }
        SessionError::Stalled { .. } => TurnedAway::Suspected,
        _ => error.also().map_or(TurnedAway::Failed, |from| TurnedAway::Parted { from }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_requests_without_a_seed_are_sampled_differently() {
        let asked = SamplingParams { temperature: 0.7, top_k: 5, ..SamplingParams::default() };
        let [a, b] = [(); 2].map(|()| with_drawn_seed(asked.clone()).unwrap());
        assert_ne!(a.seed, b.seed);
        assert_eq!(SamplingParams { seed: asked.seed, ..a }, asked);
    }
}
