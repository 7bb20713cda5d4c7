//! The router as one object: endpoint, discovery, driver, blobs. Bound once, shut down once.

use std::sync::Arc;

use kademlia_dht::Directory;
use proto_keys::KeyRing;
use proto_transport::{Endpoint, Peers};
use router_plan::{ModelRef, View};

use crate::attest::AnswerEvidence;
use crate::clock::unix_seconds;
use crate::discovery::{BlobCache, Blobs, Discovery};
use crate::driver::Driver;
use crate::generate::GenerateError;
use crate::metrics::RouterMetrics;

/// Nodes that blobs are fetched from at once.
const MAX_BLOB_PEERS: usize = 64;

/// A running router. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Router {
    endpoint: Endpoint,
    discovery: Discovery,
    driver: Driver,
    blobs: Blobs,
    metrics: RouterMetrics,
    /// What it signs with; `None` asks nobody for signatures.
    keys: Option<Arc<KeyRing>>,
    /// Which bootstrap peers were reached, ready to append to an error.
    swarm_note: Arc<str>,
}

impl Router {
    /// A router that dials from `endpoint` and looks up through `directory`.
    pub fn new(
        endpoint: Endpoint,
        directory: Arc<dyn Directory>,
        cache: BlobCache,
        metrics: RouterMetrics,
    ) -> Self {
        let peers = Peers::new(endpoint.clone(), MAX_BLOB_PEERS);
        Self {
            discovery: Discovery::new(directory, metrics.clone()),
            driver: Driver::new(endpoint.clone(), metrics.clone()),
            blobs: Blobs::new(peers, cache, metrics.clone()),
            endpoint,
            metrics,
            keys: None,
            swarm_note: Arc::from(""),
        }
    }

    /// Adds a remark about the swarm to errors that found nothing.
    #[must_use]
    pub fn with_swarm_note(mut self, note: &str) -> Self {
        self.swarm_note = Arc::from(note);
        self
    }

    /// Has the stages of its answers sign for what they do, under opens signed with these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: Arc<KeyRing>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Where the evidence of a new answer is gathered, if this router has keys.
    pub(crate) fn new_evidence(&self) -> Result<Option<AnswerEvidence>, GenerateError> {
        let Some(keys) = &self.keys else { return Ok(None) };
        // Nodes would refuse each session.
        if keys.binding().binding().expires_unix_s <= unix_seconds() {
            tracing::error!("the binding of this router's keys has run out, so nobody signs: start it again");
            return Ok(None);
        }
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| GenerateError::Random(error.to_string()))?;
        Ok(Some(AnswerEvidence::new(self.endpoint.node_id(), keys.clone(), salt)))
    }

    /// Drives sessions.
    pub const fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Every node that offers the model; if there is none, every node that offers any.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn view_of(&self, model: Option<&ModelRef>) -> Result<View, GenerateError> {
        Ok(self.discovery.view_of(model).await?)
    }

    /// Every node that offers a shard of any model.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn view_of_all(&self) -> Result<View, GenerateError> {
        Ok(self.discovery.view_of_all().await?)
    }

    /// Ends all sessions and connections and frees the port.
    pub async fn shutdown(&self) {
        self.driver.shutdown().await;
        self.endpoint.shutdown().await;
    }

    pub(crate) const fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(crate) const fn metrics(&self) -> &RouterMetrics {
        &self.metrics
    }

    pub(crate) fn swarm_note(&self) -> &str {
        &self.swarm_note
    }
}
