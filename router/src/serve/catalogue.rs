//! The models that are served: found in the swarm, fetched once, each with its view and its queue, kept fresh by one
//! task.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use proto::ModelId;
use router_plan::admission::AdmissionLimits;
use router_plan::{ModelRef, ResolveError, ResolvedModel, View, models as offered, resolve};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::config::MAX_MODELS;
use super::gate::Gate;
use crate::discovery::measure;
use crate::generate::GenerateError;
use crate::model::Model;
use crate::router::Router;

/// A model that is served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) model: Model,
    pub(super) gate: Gate,
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
}

#[derive(Debug, Default)]
struct Known {
    /// What the swarm offers, of whatever model.
    view: View,
    served: BTreeMap<ModelId, Arc<Served>>,
}

/// Records change within minutes; a node that joins should not wait for long.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);
/// Models fetched at once: each holds its tokenizer's text in memory while it is read.
const LOADS: usize = 2;

type Loaded = (ModelId, Result<Model, GenerateError>);

impl Catalogue {
    pub(super) fn new(router: Router, wanted: Vec<ModelRef>, limits: AdmissionLimits) -> Self {
        Self { inner: Arc::new(Inner { router, wanted, limits, known: RwLock::default() }) }
    }

    /// The model that is meant, if it is served.
    pub(super) fn find(&self, wanted: Option<&ModelRef>) -> Result<Arc<Served>, ResolveError> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        // A router that serves one model needs no name, whatever else the swarm offers.
        if wanted.is_none()
            && let (1, Some(only)) = (known.served.len(), known.served.values().next())
        {
            return Ok(Arc::clone(only));
        }
        let resolved = resolve(&known.view, wanted)?;
        known.served.get(&resolved.model).cloned().ok_or_else(|| ResolveError::Unknown {
            wanted: wanted.map_or_else(|| resolved.name.clone(), ToString::to_string),
            found: offered(&known.view)
                .into_iter()
                .filter(|candidate| known.served.contains_key(&candidate.model))
                .collect(),
        })
    }

    /// All models that are served, ordered by id.
    pub(super) fn list(&self) -> Vec<Arc<Served>> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.served.values().cloned().collect()
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
        for served in self.list() {
            served.gate.set_view(view.clone());
        }
        self.inner.known.write().unwrap_or_else(PoisonError::into_inner).view = view;
    }

    fn view(&self) -> View {
        self.inner.known.read().unwrap_or_else(PoisonError::into_inner).view.clone()
    }

    /// Begins to load what is wanted, not known and not in `tried`.
    fn load_missing(&self, view: &View, loads: &mut JoinSet<Loaded>, tried: &mut BTreeSet<ModelId>) {
        let known: BTreeSet<ModelId> = self.list().iter().map(|served| served.model.id()).collect();
        for resolved in self.wanted(view) {
            if loads.len() >= LOADS || known.len() + loads.len() >= MAX_MODELS {
                return;
            }
            if known.contains(&resolved.model) || !tried.insert(resolved.model) {
                continue;
            }
            let (router, view) = (self.inner.router.clone(), view.clone());
            loads.spawn(async move { (resolved.model, router.load_model(resolved, &view).await) });
        }
    }

    /// The models to serve that the swarm offers.
    fn wanted(&self, view: &View) -> Vec<ResolvedModel> {
        let references = if self.inner.wanted.is_empty() {
            offered(view).into_iter().map(|candidate| ModelRef::Id(candidate.model)).collect()
        } else {
            self.inner.wanted.clone()
        };
        references.iter().filter_map(|reference| resolve(view, Some(reference)).ok()).collect()
    }

    fn add(&self, (id, loaded): Loaded) {
        match loaded {
            Ok(model) => {
                tracing::info!(model = model.name(), id = %id.short(), "serving");
                let metrics = self.inner.router.metrics().clone();
                let layers = model.manifest().architecture.n_layers;
                let gate = Gate::new(id, layers, self.inner.limits, metrics);
                gate.set_view(self.view());
                let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
                known.served.insert(id, Arc::new(Served { model, gate }));
            }
            Err(error) => tracing::warn!(id = %id.short(), %error, "fetch a model; tried again"),
        }
    }
}
