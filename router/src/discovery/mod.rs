//! What the router learns from the swarm: records through a [`Directory`], loads by asking nodes, manifests and
//! tokenizers by hash.

mod blobs;
mod cache;

use std::sync::Arc;
use std::time::Duration;

use kademlia_dht::{Directory, LookupError};
use proto::record::VerifiedRecord;
use proto::{ModelId, NodeId};
use router_plan::{Load, Measurement, ModelRef, View};
use tokio::task::JoinSet;

use crate::clock::unix_seconds;
use crate::driver::Driver;
use crate::metrics::{LookupOutcome, RouterMetrics};

pub use blobs::{BlobError, Blobs};
pub use cache::BlobCache;
pub use kademlia_dht::bootstrap::{Bootstrap, BootstrapError};

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

/// Asks every node of the view that offers `model` (any node if `None`) for its load and notes the answers in the
/// view. Nodes that do not answer within `timeout` count as unreachable.
///
/// # Cancel safety
/// Cancel-safe: what was learnt before is in the view.
pub async fn measure(view: &mut View, driver: &Driver, model: Option<ModelId>, timeout: Duration) {
    let mut wanted: Vec<NodeId> = Vec::new();
    for node in view.nodes() {
        if node.offer().is_some_and(|offer| model.is_none_or(|model| offer.model == model)) {
            wanted.push(node.node());
        }
    }
    let mut probes = JoinSet::new();
    // A lookup gives 256 records at most; all at once, as most of them answer within a round trip.
    for node in wanted {
        let Some(addrs) = view.node(node).map(|known| known.record().addresses.clone()) else { continue };
        let driver = driver.clone();
        probes.spawn(async move { (node, driver.probe(node, &addrs, timeout).await) });
    }
    while let Some(probed) = probes.join_next().await {
        match probed {
            Ok((node, Ok(probed))) => {
                let rtt_us = u32::try_from(probed.rtt.as_micros()).unwrap_or(u32::MAX);
                let load = Some(Load::from(probed.status));
                view.measure(node, Measurement { rtt_us: Some(rtt_us), load, unreachable: None });
            }
            Ok((node, Err(error))) => view.mark_unreachable(node, error.to_string()),
            Err(_) => {}
        }
    }
}
