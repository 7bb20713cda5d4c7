//! The models that are served: found in the swarm, fetched once, each with its view and its queue, kept fresh by one
//! task.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use proto::tensor::NumericsClass;
use proto::{LayerSpan, ModelId};
use router_openai::ErrorCode;
use router_plan::admission::{AdmissionLimits, Tenant};
use router_plan::{
    Coverage, ModelCandidate, ModelRef, NodeView, ResolveError, ResolvedModel, RouteRequest, View,
    choose_route, models as offered, resolve,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Problem;
use super::config::MAX_MODELS;
use super::gate::Gate;
use super::ready::Standing;
use super::shelf::{Kept, fits, let_go};
use crate::discovery::measure;
use crate::generate::GenerateError;
use crate::model::Model;
use crate::router::Router;

/// A model that is served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) model: Model,
    pub(super) gate: Gate,
    /// The setting that it is served for; `None` if it is only one of those that were found.
    by: Option<ModelRef>,
    /// When a request named it last, milliseconds from the catalogue's beginning.
    used: AtomicU64,
}

impl Served {
    /// Refuses what would be refused anyway, before anything is done for it.
    pub(super) fn check(&self, tenant: &Tenant) -> Result<(), Problem> {
        Ok(self.gate.check(tenant)?)
    }
}

/// The models that are served. Clones are handles to the same ones.
#[derive(Clone, Debug)]
pub(super) struct Catalogue {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    router: Router,
    wanted: Vec<ModelRef>,
    limits: AdmissionLimits,
    known: RwLock<Known>,
    epoch: Instant,
    /// Models that requests named and that are not served. At most [`MAX_MODELS`]: more can't be served anyway.
    asked: Mutex<BTreeSet<ModelId>>,
}

#[derive(Debug, Default)]
struct Known {
    /// What the swarm offers, of whatever model.
    view: View,
    served: BTreeMap<ModelId, Arc<Served>>,
}

impl Known {
    /// The model that is meant: a served one, or one that is not. Without a name it is the only one that is served,
    /// whatever else the swarm offers.
    fn meant(&self, wanted: Option<&ModelRef>) -> Result<Result<&Arc<Served>, ResolvedModel>, ResolveError> {
        if let (None, 1, Some(only)) = (wanted, self.served.len(), self.served.values().next()) {
            return Ok(Ok(only));
        }
        // Strangers may announce other weights under the name of a setting: that makes it no less clear.
        let of_setting = |served: &&Arc<Served>| wanted.is_some() && served.by.as_ref() == wanted;
        if let Some(meant) = self.served.values().find(of_setting) {
            return Ok(Ok(meant));
        }
        let resolved = resolve(&self.view, wanted)?;
        Ok(self.served.get(&resolved.model).ok_or(resolved))
    }
}

/// Records change within minutes; a node that joins should not wait for long.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);
/// Models fetched at once: each holds its tokenizer's text in memory while it is read.
const LOADS: usize = 2;

/// How long fetching a model takes that is small or was fetched before.
const FETCHED_AFTER: Duration = Duration::from_secs(3);

/// A model to serve, and the setting that says so.
type Wanted = (Option<ModelRef>, ResolvedModel);
type Loaded = (Option<ModelRef>, ModelId, Result<Model, GenerateError>);

impl Catalogue {
    pub(super) fn new(router: Router, wanted: Vec<ModelRef>, limits: AdmissionLimits) -> Self {
        let (known, epoch, asked) = (RwLock::default(), Instant::now(), Mutex::default());
        Self { inner: Arc::new(Inner { router, wanted, limits, known, epoch, asked }) }
    }

    /// The model that is meant, if it is served. One that is not, and may be, is fetched.
    pub(super) fn find(&self, wanted: Option<&ModelRef>) -> Result<Arc<Served>, Problem> {
        let known = self.known();
        let served = known.meant(wanted)?;
        let served = served.map_err(|resolved| self.not_served(&known, wanted, &resolved))?;
        served.used.store(self.now_ms(), Ordering::Relaxed);
        Ok(Arc::clone(served))
    }

    /// What a client calls a model, so that it gets this one: its name, or `NAME@id8` where others are called so too.
    pub(super) fn id_of(&self, served: &Served) -> String {
        let (known, id, name) = (self.known(), served.model.id(), served.model.name());
        let means = |text: &String| {
            let meant = text.parse().ok().and_then(|wanted| known.meant(Some(&wanted)).ok());
            matches!(meant, Some(Ok(meant)) if meant.model.id() == id)
        };
        let spellings = [name.to_owned(), format!("{name}@{}", id.short())];
        spellings.into_iter().find(means).unwrap_or_else(|| id.to_hex())
    }

    fn not_served(&self, known: &Known, wanted: Option<&ModelRef>, resolved: &ResolvedModel) -> Problem {
        if self.inner.wanted.is_empty() {
            let mut asked = self.asked();
            if asked.len() < MAX_MODELS {
                asked.insert(resolved.model);
            }
            let what = format!("model {} is not fetched yet", resolved.name);
            let cure = "try again after the time given; if it stays so, the router's log says why";
            return Problem::new(ErrorCode::Busy, what, cure).retry_after(FETCHED_AFTER);
        }
        let wanted = wanted.map_or_else(|| resolved.name.clone(), ToString::to_string);
        let served = |candidate: &ModelCandidate| known.served.contains_key(&candidate.model);
        let found = offered(&known.view).into_iter().filter(served).collect();
        ResolveError::Unknown { wanted, found }.into()
    }

    /// The classes in which nodes that answer offer a model, and the layers that none of them holds in the best covered.
    pub(super) fn coverage(&self, served: &Served) -> (Vec<NumericsClass>, Vec<LayerSpan>) {
        let known = self.known();
        let n_layers = served.model.manifest().architecture.n_layers;
        let mut spans: BTreeMap<NumericsClass, Vec<LayerSpan>> = BTreeMap::new();
        let there = |node: &&NodeView| !known.view.is_expired(node) && node.measured.unreachable.is_none();
        for node in known.view.nodes().filter(there) {
            if let Some(offer) = node.offer().filter(|offer| offer.model == served.model.id()) {
                spans.entry(offer.class).or_default().push(offer.span);
            }
        }
        let covered = spans.values().map(|spans| Coverage::of(n_layers, spans.iter().copied()));
        let best = covered.max_by_key(Coverage::held).unwrap_or_else(|| Coverage::of(n_layers, []));
        (spans.keys().copied().collect(), best.gaps().spans().to_vec())
    }

    /// How it stands with each model that is served or ought to be.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let served = self.list().into_iter().map(|served| {
            let (model, n_layers) = (served.model.id(), served.model.manifest().architecture.n_layers);
            // Room is not asked for: whoever finds none waits for it.
            let exclude = BTreeSet::new();
            let prefer = BTreeMap::new();
            let any = RouteRequest {
                model,
                n_layers,
                class: None,
                max_positions: 0,
                exclude,
                prefer,
                standby: false,
            };
            let lacks = choose_route(&self.known().view, &any).err();
            Standing {
                model: self.id_of(&served),
                configured: served.by.is_some(),
                lacks: lacks.map(|error| error.to_string()),
            }
        });
        let mut standings: Vec<Standing> = served.collect();
        let known = self.known();
        let absent = |by: &&ModelRef| !matches!(known.meant(Some(by)), Ok(Ok(_)));
        standings.extend(self.inner.wanted.iter().filter(absent).map(|by| Standing {
            model: by.to_string(),
            configured: true,
            lacks: Some("it was not found, or not fetched yet".to_owned()),
        }));
        standings
    }

    /// All models that are served, ordered by id.
    pub(super) fn list(&self) -> Vec<Arc<Served>> {
        self.known().served.values().cloned().collect()
    }

    /// Refuses everything that waits.
    pub(super) fn close(&self) {
        for served in self.list() {
            served.gate.close();
        }
    }

    /// Looks once, and fetches what is found, so that the first request finds it.
    pub(super) async fn begin(&self) {
        let view = self.look(&View::default()).await;
        let (mut loads, mut tried) = (JoinSet::new(), BTreeSet::new());
        self.load_missing(&view, &mut loads, &mut tried);
        while let Some(Ok(loaded)) = loads.join_next().await {
            self.add(loaded);
            self.load_missing(&view, &mut loads, &mut tried);
        }
        self.refresh(view).await;
    }

    /// Keeps all views fresh until cancelled.
    pub(super) async fn run(self, every: Duration, cancel: CancellationToken) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Instant::now();
        // What fails to load is tried again at the next lookup.
        let (mut loads, mut tried) = (JoinSet::new(), BTreeSet::new());
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(loaded) = loads.join_next() => {
                    if let Ok(loaded) = loaded {
                        self.add(loaded);
                    }
                    self.load_missing(&self.view(), &mut loads, &mut tried);
                }
                _ = tick.tick() => {
                    let work = async {
                        let mut view = self.view();
                        if looked.elapsed() >= LOOKUP_EVERY || view.is_empty() {
                            view = self.look(&view).await;
                            looked = Instant::now();
                            if loads.is_empty() {
                                tried.clear();
                            }
                            self.load_missing(&view, &mut loads, &mut tried);
                        }
                        self.refresh(view).await;
                        self.tidy(&mut loads, &mut tried);
                    };
                    tokio::select! {
                        () = work => {}
                        () = cancel.cancelled() => return,
                    }
                }
            }
        }
    }

    /// What the directory knows now; what it knew before if it does not answer.
    async fn look(&self, before: &View) -> View {
        let router = &self.inner.router;
        let mut view = match router.view_of_all().await {
            Ok(view) => view,
            Err(error) => {
                tracing::warn!(%error, "look up nodes");
                return before.clone();
            }
        };
        // A lookup over all models may be cut at its size; one for each that is served is not.
        for served in self.list() {
            if let Ok(of_model) = router.view_of(Some(&ModelRef::Id(served.model.id()))).await {
                for node in of_model.nodes() {
                    view.insert(node.verified().clone());
                }
            }
        }
        view
    }

    /// Asks every node for its load and hands the view to all queues.
    async fn refresh(&self, mut view: View) {
        measure(&mut view, self.inner.router.driver(), None, &mut |_| false).await;
        let reached = |node: &&NodeView| node.measured.unreachable.is_none() && !view.is_expired(node);
        self.inner.router.metrics().reached(view.nodes().filter(reached).count());
        for served in self.list() {
            served.gate.set_view(view.clone());
        }
        self.inner.known.write().unwrap_or_else(PoisonError::into_inner).view = view;
    }

    fn view(&self) -> View {
        self.known().view.clone()
    }

    /// Lets models go that nobody offers or uses, and begins to load what requests named.
    fn tidy(&self, loads: &mut JoinSet<Loaded>, tried: &mut BTreeSet<ModelId>) {
        let view = self.view();
        self.remove(&let_go(&self.kept(&view), 0, 0));
        let offers: BTreeSet<ModelId> = offered(&view).into_iter().map(|candidate| candidate.model).collect();
        self.asked().retain(|model| offers.contains(model));
        if !self.asked().is_empty() {
            self.load_missing(&view, loads, tried);
        }
    }

    /// What is served, as the decision sees it.
    fn kept(&self, view: &View) -> Vec<Kept> {
        let offers: BTreeSet<ModelId> = offered(view).into_iter().map(|candidate| candidate.model).collect();
        let now = self.now_ms();
        let as_kept = |served: &Arc<Served>| {
            let model = served.model.id();
            // A setting keeps what it means, and what it meant as long as it means nothing else.
            let still_means = |by| resolve(view, Some(by)).map_or(true, |now| now.model == model);
            Kept {
                model,
                configured: served.by.as_ref().is_some_and(still_means),
                offered: offers.contains(&model),
                busy: served.gate.counts() != (0, 0),
                unused: Duration::from_millis(now.saturating_sub(served.used.load(Ordering::Relaxed))),
            }
        };
        self.list().iter().map(as_kept).collect()
    }

    fn remove(&self, gone: &[ModelId]) {
        if gone.is_empty() {
            return;
        }
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        for model in gone {
            tracing::info!(id = %model.short(), "no longer serving");
            known.served.remove(model);
        }
    }

    /// Begins to load what is wanted, not known and not in `tried`. What requests named may take another's place, but
    /// only when it is here: what can't be fetched drives nothing out.
    fn load_missing(&self, view: &View, loads: &mut JoinSet<Loaded>, tried: &mut BTreeSet<ModelId>) {
        let (kept, asked) = (self.kept(view), self.asked().clone());
        for (by, resolved) in self.wanted(view) {
            let model = resolved.model;
            if loads.len() >= LOADS {
                return;
            }
            let full = kept.len() + loads.len() >= MAX_MODELS;
            if kept.iter().any(|kept| kept.model == model)
                || full && !(asked.contains(&model) && fits(&kept, loads.len()))
                || !tried.insert(model)
            {
                continue;
            }
            let (router, view) = (self.inner.router.clone(), view.clone());
            loads.spawn(async move { (by, model, router.load_model(resolved, &view).await) });
        }
    }

    /// The models to serve that the swarm offers: by the settings, or all, those that requests named first.
    fn wanted(&self, view: &View) -> Vec<Wanted> {
        if !self.inner.wanted.is_empty() {
            let meant = |by: &ModelRef| Some((Some(by.clone()), resolve(view, Some(by)).ok()?));
            return self.inner.wanted.iter().filter_map(meant).collect();
        }
        let asked = self.asked().clone();
        let others = offered(view).into_iter().map(|candidate| candidate.model);
        asked
            .into_iter()
            .chain(others)
            .filter_map(|model| Some((None, resolve(view, Some(&ModelRef::Id(model))).ok()?)))
            .collect()
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.inner.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, BTreeSet<ModelId>> {
        // Every change under the lock is one set operation.
        self.inner.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.inner.epoch.elapsed().as_millis() as u64
    }

    fn add(&self, (by, id, loaded): Loaded) {
        // Whether it came or not, it is for the next request to ask again.
        self.asked().remove(&id);
        let kept = self.kept(&self.view());
        match loaded {
            Ok(model) if !fits(&kept, 0) => {
                tracing::warn!(model = model.name(), "all places are taken by models in use or configured");
            }
            Ok(model) => {
                self.remove(&let_go(&kept, 0, 1));
                tracing::info!(model = model.name(), id = %id.short(), "serving");
                let metrics = self.inner.router.metrics().clone();
                let layers = model.manifest().architecture.n_layers;
                let gate = Gate::new(id, layers, self.inner.limits, metrics);
                gate.set_view(self.view());
                let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
                known
                    .served
                    .insert(id, Arc::new(Served { model, gate, by, used: AtomicU64::new(self.now_ms()) }));
            }
            Err(error) => tracing::warn!(id = %id.short(), %error, "fetch a model; tried again"),
        }
    }
}
