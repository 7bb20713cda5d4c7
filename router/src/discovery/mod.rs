//! What the router learns from the swarm: records through a [`Directory`], loads by asking nodes, manifests and
//! tokenizers by hash.

mod blobs;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kademlia_dht::{Directory, LookupError};
use proto::record::VerifiedRecord;
use proto::{ModelId, NodeId};
use proto_transport::RequestError;
use router_plan::{Load, Measurement, ModelRef, View};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::clock::unix_seconds;
use crate::driver::{Driver, Probed};
use crate::metrics::{LookupOutcome, RouterMetrics};

pub use blobs::Blobs;
pub use kademlia_dht::bootstrap::{Bootstrap, BootstrapError};
pub use proto_transport::blobs::{BlobCache, BlobError};

/// Looks the swarm up and makes views of it. Clones share the directory.
#[derive(Clone, Debug)]
pub struct Discovery {
    directory: Arc<dyn Directory>,
    metrics: RouterMetrics,
}

impl Discovery {
    /// Looks up through `directory`.
    pub fn new(directory: Arc<dyn Directory>, metrics: RouterMetrics) -> Self {
        Self { directory, metrics }
    }

    /// Every node that offers a shard of the model. If there is none, every node that offers any shard, so that an
    /// error can say what there is.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn view_of(&self, model: Option<&ModelRef>) -> Result<View, LookupError> {
        let mut view = View::at(unix_seconds());
        let records = match model {
            Some(ModelRef::Name(name) | ModelRef::NameAndId(name, _)) => {
                self.count(self.directory.lookup_model_name(name).await)?
            }
            Some(ModelRef::Id(id)) => self.count(self.directory.lookup_model(*id).await)?,
            None => Vec::new(),
        };
        let found = !records.is_empty();
        for record in records {
            view.insert(record);
        }
        if !found {
            return self.view_of_all().await;
        }
        Ok(view)
    }

    /// Every node that offers a shard of any model.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn view_of_all(&self) -> Result<View, LookupError> {
        let records = self.count(self.directory.lookup_all_models().await)?;
        Ok(View::of_records(unix_seconds(), records))
    }

    fn count(
        &self,
        found: Result<Vec<VerifiedRecord>, LookupError>,
    ) -> Result<Vec<VerifiedRecord>, LookupError> {
        self.metrics.lookup(match &found {
            Ok(records) if records.is_empty() => LookupOutcome::Empty,
            Ok(_) => LookupOutcome::Found,
            Err(_) => LookupOutcome::Failed,
        });
        found
    }
}

/// How long nodes have to say how they are: a dial and a question, with one lost packet.
const MEASURE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long is waited for the others once enough nodes have answered: a dial and a question over 100 ms round trips.
const GRACE: Duration = Duration::from_millis(200);

/// Asks every node of the view that offers `model` (any node if `None`) for its load and notes the answers in the
/// view. Nodes that do not answer count as unreachable, or as late. Ends early, after a grace period, when those that answered are
/// `enough`: a dead node whose record still stands must not hold up every request.
///
/// # Cancel safety
/// Cancel-safe: what was learnt before is in the view.
pub async fn measure(
    view: &mut View,
    driver: &Driver,
    model: Option<ModelId>,
    enough: &mut (dyn FnMut(&View) -> bool + Send),
) {
    let mut waiting: BTreeSet<NodeId> = BTreeSet::new();
    for node in view.nodes() {
        if node.offer().is_some_and(|offer| model.is_none_or(|model| offer.model == model)) {
            waiting.insert(node.node());
        }
    }
    let mut probes = JoinSet::new();
    // A lookup gives 256 records at most; all at once, as most of them answer within a round trip.
    for &node in &waiting {
        let Some(addrs) = view.node(node).map(|known| known.record().addresses.clone()) else { continue };
        let driver = driver.clone();
        probes.spawn(async move { (node, driver.probe(node, &addrs, MEASURE_TIMEOUT).await) });
    }
    let begun = Instant::now();
    let mut satisfied = false;
    loop {
        let probed = tokio::select! {
            probed = probes.join_next() => probed,
            () = sleep_until(begun + GRACE), if satisfied => break,
        };
        match probed {
            None => break,
            Some(Ok((node, answer))) => {
                waiting.remove(&node);
                note(view, node, answer);
            }
            Some(Err(_)) => {}
        }
        if !satisfied && !waiting.is_empty() {
            let mut answered = view.clone();
            mark_slow(&mut answered, &waiting);
            satisfied = enough(&answered);
        }
    }
    mark_slow(view, &waiting);
}

fn note(view: &mut View, node: NodeId, answer: Result<Probed, RequestError>) {
    match answer {
        Ok(probed) => {
            let rtt_us = u32::try_from(probed.rtt.as_micros()).unwrap_or(u32::MAX);
            let load = Some(Load::from(probed.status));
            view.measure(node, Measurement { rtt_us: Some(rtt_us), load, ..Measurement::default() });
        }
        Err(error) => view.mark_unreachable(node, error.to_string()),
    }
}

fn mark_slow(view: &mut View, waiting: &BTreeSet<NodeId>) {
    for &node in waiting {
        view.mark_late(node, format!("it did not answer within {} ms", GRACE.as_millis()));
    }
}
