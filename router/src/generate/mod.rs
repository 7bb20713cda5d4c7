//! One answer, from a model's name to its text: resolve, fetch, plan, open, stream, account.

mod answer;
mod avoid;
mod error;
mod reply;
mod resume;
mod stream;
mod timings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::answer::AnswerTerms;
use proto::manifest::{MAX_MANIFEST_BYTES, Manifest};
use proto::record::ShardOffer;
use proto::session::SamplingParams;
use proto::tensor::NumericsClass;
use proto::{ContentHash, Generation, ModelId, NodeId, SessionId};
use proto_sampling::Sampler;
use router_plan::{ModelRef, ResolvedModel, Route, RouteRequest, View, choose_route, resolve};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_seconds;
use crate::discovery::measure;
use crate::driver::{SessionEnd, TimedToken};
use crate::model::{Model, ModelError, Prompt};
use crate::router::Router;
use avoid::Avoided;
use resume::OverView;

use crate::session::{FinishReason, Outcome, SessionError, SessionLimits, SessionShare, SessionTerms};

pub use error::GenerateError;
pub use reply::{Finish, Hop, Reply};
pub(crate) use resume::{COMPLETE, Generations};
pub use resume::{Resume, Resumed, Resuming};
pub use stream::{AnswerStream, Piece};
pub use timings::Timings;

/// What is asked of a model.
#[derive(Clone, PartialEq, Debug)]
pub struct GenerateRequest {
    /// Which model; `None` takes the only one there is.
    pub model: Option<ModelRef>,
    /// The numerics class; `None` takes the cheaper route's.
    pub class: Option<NumericsClass>,
    /// What to continue.
    pub prompt: Prompt,
    /// Tokens to generate at most; cut to what the context leaves room for.
    pub max_tokens: u32,
    /// How to sample.
    pub sampling: SamplingParams,
    /// Texts that end the answer before them.
    pub stop: Vec<String>,
    /// What the answer must look like, and what is told of its choices.
    pub answer: AnswerTerms,
    /// How many positions the nodes may run ahead of the reader.
    pub credit: u32,
    /// For the whole answer, from the opening on.
    pub timeout: Option<Duration>,
    /// Other nodes stand by for the stages, where there are any.
    pub standby: bool,
}

/// How far stage 0 may run ahead unless a request says otherwise: three seconds of reading.
pub const DEFAULT_CREDIT: u32 = 64;

/// What happens on the way to a reply.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A route was chosen and is being opened.
    Route(&'a Route),
    /// A stage failed before the first token; another route is tried.
    Retry(&'a SessionError),
    /// A stage was lost in the middle of the answer, which goes on over this route.
    Moved(&'a SessionError, &'a Route),
    /// A token came, and with it this text (often none, as stop strings and half characters are held back).
    Token(&'a TimedToken, &'a str),
    /// The end of the text that was held back.
    Rest(&'a str),
}

/// Where steps are told.
pub type Watch<'a> = dyn FnMut(Step<'_>) + Send + 'a;

/// Routes tried before the first token: one, and as many as are tried when an answer breaks.
const ATTEMPTS: u32 = 1 + stream::TRIES;

impl Router {
    /// Finds the model and fetches its manifest and tokenizer.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn model(&self, wanted: Option<&ModelRef>) -> Result<(Model, View), GenerateError> {
        let view = self.view_of(wanted).await?;
        let resolved = resolve(&view, wanted)
            .map_err(|source| GenerateError::Resolve { source, swarm: self.swarm_note().to_owned() })?;
        let model = self.load_model(resolved, &view).await?;
        Ok((model, view))
    }

    /// Fetches manifest and tokenizer from the nodes of `view`, or from the cache.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn load_model(&self, resolved: ResolvedModel, view: &View) -> Result<Model, GenerateError> {
        let nodes = holders(view, resolved.model);
        let bytes = self
            .blobs()
            .get(resolved.model.into(), MAX_MANIFEST_BYTES as u64, &nodes)
            .await
            .map_err(|source| GenerateError::blob("manifest", &resolved.name, source))?;
        let manifest = Manifest::from_bytes(&bytes, resolved.model)
            .map_err(|source| ModelError::Manifest { name: resolved.name.clone(), source })?;
        let tokenizer = match manifest.tokenizer {
            Some(entry) => Some(self.tokenizer(&resolved.name, entry.blake3, entry.bytes, &nodes).await?),
            None => None,
        };
        let name = resolved.name.clone();
        // Tens of megabytes of JSON take a second, in which connections must not starve.
        let reading = tokio::task::spawn_blocking(move || {
            Model::new(resolved.model, resolved.name, manifest, tokenizer.as_deref())
        });
        let model = reading
            .await
            .map_err(|error| GenerateError::Tokenizer { model: name, why: error.to_string() })??;
        Ok(model)
    }

    async fn tokenizer(
        &self,
        model: &str,
        hash: ContentHash,
        bytes: u64,
        nodes: &[(NodeId, Vec<SocketAddr>)],
    ) -> Result<Vec<u8>, GenerateError> {
        self.blobs()
            .get(hash, bytes, nodes)
            .await
            .map_err(|source| GenerateError::blob("tokenizer", model, source))
    }

    /// Answers one request. `watch` is told of every step; `cancel` ends the answer early, what came until then is in
    /// the reply.
    pub async fn generate(
        &self,
        request: &GenerateRequest,
        watch: &mut Watch<'_>,
        cancel: &CancellationToken,
    ) -> Result<Reply, GenerateError> {
        let found = tokio::select! {
            found = self.model(request.model.as_ref()) => found?,
            () = cancel.cancelled() => return Err(GenerateError::Cancelled),
        };
        let (model, mut view) = found;
        self.generate_on(&model, &mut view, request, watch, cancel).await
    }

    /// As [`Router::generate`], with a model that is known already. Measures the nodes of `view` first.
    pub async fn generate_on(
        &self,
        model: &Model,
        view: &mut View,
        request: &GenerateRequest,
        watch: &mut Watch<'_>,
        cancel: &CancellationToken,
    ) -> Result<Reply, GenerateError> {
        Sampler::new(&request.sampling, model.manifest().architecture.vocab as usize)?;
        let prompt = tokio::select! {
            prompt = model.encode_aside(request.prompt.clone(), unix_seconds(), ()) => prompt?,
            () = cancel.cancelled() => return Err(GenerateError::Cancelled),
        };
        let room = model.context() - prompt.len() as u32;
        let max_tokens = request.max_tokens.clamp(1, room);
        let wanted = RouteRequest {
            model: model.id(),
            n_layers: model.manifest().architecture.n_layers,
            class: request.class,
            max_positions: prompt.len() as u32 + max_tokens,
            exclude: BTreeSet::new(),
            prefer: BTreeMap::new(),
            standby: request.standby,
        };
        let mut enough = |view: &View| choose_route(view, &wanted).is_ok();
        tokio::select! {
            () = measure(view, self.driver(), Some(model.id()), &mut enough) => {}
            () = cancel.cancelled() => return Err(GenerateError::Cancelled),
        }
        let mut route =
            choose_route(view, &wanted).map_err(|source| GenerateError::route(source, view, &wanted))?;
        let mut avoided = Avoided::default();
        for attempt in 1.. {
            watch(Step::Route(&route));
            let share = SessionShare::default();
            let mut terms = terms(model, &route, prompt.clone(), max_tokens, request, share)?;
            terms.evidence = self.new_evidence()?;
            let evidence = terms.evidence.clone();
            let terms = Arc::new(terms);
            let elsewhere = OverView {
                driver: self.driver().clone(),
                view: view.clone(),
                wanted: wanted.clone(),
                avoided: avoided.clone(),
                route: route.clone(),
                generations: Generations::new(Arc::clone(&terms)),
            };
            let run = self.run(model, terms, (&request.stop, elsewhere), watch, cancel).await?;
            match &run.end.outcome {
                Outcome::Failed(error) if run.ids.is_empty() && attempt < ATTEMPTS => {
                    let Some(node) = error.avoid() else { return Err(error.clone().into()) };
                    watch(Step::Retry(error));
                    // Without another route the failure itself is the reason.
                    let other = avoided.without((node, error), (&*view, &wanted), Instant::now());
                    route = other.map_err(|_| error.clone())?;
                }
                Outcome::Failed(error) => return Err(error.clone().into()),
                Outcome::Cancelled if run.ids.is_empty() => return Err(GenerateError::Cancelled),
                _ => {
                    let route = run.moved_to.clone().unwrap_or(route);
                    return Ok(Reply { evidence, ..run.reply(model, &route, prompt) });
                }
            }
        }
        Err(GenerateError::Cancelled)
    }

    async fn run(
        &self,
        model: &Model,
        terms: Arc<SessionTerms>,
        (stops, elsewhere): (&[String], OverView),
        watch: &mut Watch<'_>,
        cancel: &CancellationToken,
    ) -> Result<Run, GenerateError> {
        let session = self.driver().start(terms)?;
        let mut stream = AnswerStream::new(session, model, stops, self.metrics().clone())?;
        stream.resume_by(elsewhere);
        let mut run = Run::default();
        let mut cancelled = false;
        loop {
            let piece = tokio::select! {
                piece = stream.next() => piece?,
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    stream.cancel();
                    continue;
                }
            };
            match piece {
                Some(Piece::Token(token, text)) => {
                    run.push(&token);
                    watch(Step::Token(&token, &text));
                }
                Some(Piece::Rest(text)) => watch(Step::Rest(&text)),
                Some(Piece::Moved(moved)) => {
                    let (lost, route) = *moved;
                    watch(Step::Moved(&lost, &route));
                    run.moved_to = Some(route);
                    run.moves += 1;
                }
                None => break,
            }
        }
        (run.text, run.end) = stream.end().await;
        Ok(run)
    }
}

/// What a session is opened with: a request for a model on a route.
pub(crate) fn terms(
    model: &Model,
    route: &Route,
    prompt: Vec<u32>,
    max_tokens: u32,
    request: &GenerateRequest,
    share: SessionShare,
) -> Result<SessionTerms, GenerateError> {
    Ok(SessionTerms {
        answer: request.answer.clone(),
        session: new_session_id()?,
        generation: Generation::new(0),
        since: Generation::new(0),
        plan: route.to_plan(),
        max_positions: prompt.len() as u32 + max_tokens,
        prompt: prompt.into(),
        generated: 0,
        max_tokens,
        vocab: model.manifest().architecture.vocab,
        eos: model.manifest().eos.clone(),
        sampling: request.sampling.clone(),
        credit: request.credit.max(1),
        limits: SessionLimits { total: request.timeout, ..SessionLimits::default() },
        share,
        standbys: resume::standbys(route),
        evidence: None,
    })
}

fn new_session_id() -> Result<SessionId, GenerateError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| GenerateError::Random(error.to_string()))?;
    Ok(SessionId::new(u64::from_le_bytes(bytes)))
}

/// One attempt's tokens, text and end.
#[derive(Debug)]
struct Run {
    ids: Vec<u32>,
    times: Vec<Duration>,
    margins: Vec<f32>,
    text: String,
    end: SessionEnd,
    /// The route that it ended on, if that is not the first one.
    moved_to: Option<Route>,
    moves: u32,
}

impl Default for Run {
    fn default() -> Self {
        let end = SessionEnd { outcome: Outcome::Cancelled, accounts: Vec::new(), prompt_sent: None };
        Self {
            ids: Vec::new(),
            times: Vec::new(),
            margins: Vec::new(),
            text: String::new(),
            end,
            moved_to: None,
            moves: 0,
        }
    }
}

impl Run {
    fn push(&mut self, token: &TimedToken) {
        self.ids.push(token.token.token);
        self.times.push(token.at);
        self.margins.push(token.token.margin);
    }

    fn reply(self, model: &Model, route: &Route, prompt: Vec<u32>) -> Reply {
        Reply {
            model: model.name().to_owned(),
            model_id: model.id(),
            class: route.class,
            finish: match self.end.outcome {
                Outcome::Finished(FinishReason::Stop) => Finish::Stop,
                Outcome::Finished(FinishReason::Length) => Finish::Length,
                Outcome::Cancelled | Outcome::Superseded | Outcome::Failed(_) => Finish::Cancelled,
            },
            timings: Timings::new(prompt.len(), self.end.prompt_sent, &self.times),
            hops: reply::hops(route, &self.end.accounts),
            stages: route.stages.clone(),
            prompt_token_ids: prompt,
            token_ids: self.ids,
            margins: self.margins,
            moves: self.moves,
            evidence: None,
            text: self.text,
        }
    }
}

/// Nodes that should have the model's blobs, ordered by id.
fn holders(view: &View, model: ModelId) -> Vec<(NodeId, Vec<SocketAddr>)> {
    let has = |offer: &ShardOffer| offer.model == model;
    view.nodes()
        .filter(|node| node.offer().is_some_and(has) && !view.is_expired(node))
        .map(|node| (node.node(), node.record().addresses.clone()))
        .collect()
}
