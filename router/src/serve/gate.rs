//! The async shell around one model's [`Admission`]: requests wait in it, and every change wakes whom it concerns.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::{ModelId, NodeId};
use router_plan::admission::{
    Admission, AdmissionLimits, AdmissionRefusal, Decision, Tenant, Ticket, TurnedAway, Verdict, Wanted,
};
use router_plan::{Route, View};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::metrics::RouterMetrics;

/// One model's gate. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    epoch: Instant,
    metrics: RouterMetrics,
    /// Views that were taken.
    views: AtomicU64,
}

#[derive(Debug)]
struct State {
    admission: Admission,
    /// Bounded by the admission's queue.
    waiting: HashMap<Ticket, oneshot::Sender<Verdict>>,
    /// What the metric was told last.
    counted: usize,
}

/// A request's place. Dropping the last clone gives it back.
#[derive(Clone, Debug)]
pub(super) struct Place {
    entry: Arc<Entry>,
}

/// A request in the admission, waiting or placed.
#[derive(Debug)]
struct Entry {
    gate: Gate,
    ticket: Ticket,
    until: Duration,
}

impl Gate {
    pub(super) fn new(
        model: ModelId,
        n_layers: u32,
        limits: AdmissionLimits,
        metrics: RouterMetrics,
    ) -> Self {
        let admission = Admission::new(model, n_layers, limits);
        let state = Mutex::new(State { admission, waiting: HashMap::new(), counted: 0 });
        let (epoch, views) = (Instant::now(), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { state, epoch, metrics, views }) }
    }

    /// Takes what was newly learnt of the swarm.
    pub(super) fn set_view(&self, view: View) {
        self.change(|admission, now| admission.set_view(now, view));
        self.inner.views.fetch_add(1, Ordering::Release);
    }

    /// Refuses everything that waits, and everything from now on.
    pub(super) fn close(&self) {
        self.change(|admission, _| admission.close());
    }

    /// Requests that wait, and those that have a place.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.admission.waiting(), state.admission.placed())
    }

    /// Refuses what would be refused anyway, before anything is done for it.
    pub(super) fn check(&self, tenant: &Tenant) -> Result<(), AdmissionRefusal> {
        let Some(refusal) = self.lock().admission.would_refuse(tenant) else { return Ok(()) };
        self.inner.metrics.not_placed(&refusal);
        Err(refusal)
    }

    /// Waits for a place, at most until `until`.
    ///
    /// # Cancel safety
    /// Cancel-safe: a request that is dropped leaves the queue.
    pub(super) async fn enter(
        &self,
        wanted: impl FnOnce(Duration) -> Wanted,
        until: Instant,
    ) -> Result<(Place, Route), AdmissionRefusal> {
        let until = until.saturating_duration_since(self.inner.epoch);
        let (entry, verdict) = {
            let mut state = self.lock();
            let now = self.now();
            let (ticket, decisions) = state.admission.submit(now, wanted(until));
            let (sender, verdict) = oneshot::channel();
            state.waiting.insert(ticket, sender);
            state.deliver(decisions);
            self.count(&mut state);
            (Entry { gate: self.clone(), ticket, until }, verdict)
        };
        let route = entry.decided(verdict, until).await?;
        Ok((Place { entry: Arc::new(entry) }, route))
    }

    fn change(&self, change: impl FnOnce(&mut Admission, Duration) -> Vec<Decision>) {
        let mut state = self.lock();
        let now = self.now();
        let decisions = change(&mut state.admission, now);
        state.deliver(decisions);
        self.count(&mut state);
    }

    fn count(&self, state: &mut State) {
        let waiting = state.waiting.len();
        self.inner.metrics.waiting(waiting as i64 - state.counted as i64);
        state.counted = waiting;
    }

    fn now(&self) -> Duration {
        self.inner.epoch.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The admission is whole after each of its methods.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn deliver(&mut self, decisions: Vec<Decision>) {
        for Decision { ticket, verdict } in decisions {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                // Whoever has gone gives its place back by being dropped.
                let _ = waiting.send(verdict);
            }
        }
    }
}

impl Entry {
    /// Waits for the verdict; asks for one when the time is over.
    async fn decided(
        &self,
        mut verdict: oneshot::Receiver<Verdict>,
        until: Duration,
    ) -> Result<Route, AdmissionRefusal> {
        let metrics = &self.gate.inner.metrics;
        let begun = Instant::now();
        let in_time = timeout_at(self.gate.inner.epoch + until, &mut verdict).await;
        let decided = if let Ok(decided) = in_time {
            decided
        } else {
            self.gate.change(Admission::expire);
            verdict.await
        };
        let refusal = match decided {
            Ok(Verdict::Placed(route)) => {
                metrics.placed(begun.elapsed());
                return Ok(route);
            }
            Ok(Verdict::Refused(refusal)) => refusal,
            Err(_) => AdmissionRefusal::Closed,
        };
        metrics.not_placed(&refusal);
        Err(refusal)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.waiting.remove(&self.ticket);
        let now = self.gate.now();
        let decisions = state.admission.release(now, self.ticket);
        state.deliver(decisions);
        self.gate.count(&mut state);
    }
}

impl Place {
    /// A node did not take the session: waits for another route.
    pub(super) async fn turned_away(&self, node: NodeId, why: TurnedAway) -> Result<Route, AdmissionRefusal> {
        let ticket = self.entry.ticket;
        let verdict = self.again(|admission, now| admission.turned_away(now, ticket, node, why));
        self.entry.decided(verdict, self.entry.until).await
    }

    /// A node was lost in the middle of the answer: waits for another route, for at most `patience`.
    pub(super) async fn lost(
        &self,
        lost: (NodeId, TurnedAway),
        patience: Duration,
    ) -> Result<Route, AdmissionRefusal> {
        let ticket = self.entry.ticket;
        let until = self.entry.gate.now() + patience;
        let verdict = self.again(|admission, now| admission.lost(now, ticket, lost, until));
        self.entry.decided(verdict, until).await
    }

    /// Views that the gate has taken: without another one nothing new is known of any node.
    pub(super) fn views(&self) -> u64 {
        self.entry.gate.inner.views.load(Ordering::Acquire)
    }

    /// Another place without a node of the route that is about to leave, if there is such a node, and such a place now.
    pub(super) fn leave(&self) -> Option<(NodeId, Route)> {
        let (gate, ticket) = (&self.entry.gate, self.entry.ticket);
        let mut state = gate.lock();
        let node = state.admission.leaving(ticket)?;
        let route = state.admission.leave(gate.now(), ticket, node)?;
        Some((node, route))
    }

    fn again(
        &self,
        change: impl FnOnce(&mut Admission, Duration) -> Vec<Decision>,
    ) -> oneshot::Receiver<Verdict> {
        let gate = &self.entry.gate;
        let mut state = gate.lock();
        let (sender, verdict) = oneshot::channel();
        state.waiting.insert(self.entry.ticket, sender);
        let decisions = change(&mut state.admission, gate.now());
        state.deliver(decisions);
        gate.count(&mut state);
        verdict
    }
}
