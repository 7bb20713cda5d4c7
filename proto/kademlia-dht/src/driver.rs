//! The thin driver: the core over real QUIC. Moves bytes and time; decides nothing about Kademlia.
//!
//! A [`Dht`] does not own the endpoint: a node's sessions and its discovery share one. Outgoing requests ride
//! connections of class discovery that the driver dials and pools; incoming connections of that class are fed by
//! the endpoint's owner to [`Dht::serve_connection`].

mod announcer;
mod bootstrap;
mod config;
mod persist;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::discovery::Contact;
use proto::record::{DhtKey, SignedRecord, VerifiedRecord};
use proto::status::CloseCode;
use proto::{FrameKind, NodeId};
use proto_transport::{Connection, Endpoint, FrameReceiver, FrameSender, Peers};
use tokio::task::JoinSet;
use tokio::time::Instant;

use announcer::Announcer;
use bootstrap::Bootstrap;
use persist::TableFile;
use shared::Shared;

use crate::core::{Core, Event, Outcome, Peer, Request};
use crate::directory::{Announcement, Directory, DirectoryFuture, LookupError, PublishError, Published};

pub use bootstrap::JoinError;
pub use config::{DhtConfig, Role};

/// A running DHT peer. Clones are handles to the same one; [`Dht::shutdown`] ends it.
#[derive(Debug, Clone)]
pub struct Dht {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    bootstrap: Arc<Bootstrap>,
    announcer: Arc<Announcer>,
    table_file: Option<TableFile>,
    /// Not the first node of a swarm: there are bootstrap peers or peers of an earlier run.
    expects_peers: bool,
}

impl Dht {
    /// Starts on `endpoint`. Reads the saved table and returns; joining goes on in the background
    /// ([`Dht::joined`]).
    ///
    /// # Cancel safety
    /// Cancel-safe: nothing has been started before it returns.
    pub async fn start(endpoint: Endpoint, config: DhtConfig) -> Self {
        let listen_port = match config.role {
            Role::Server { advertised_port } => {
                Some(advertised_port.unwrap_or_else(|| endpoint.local_addr().port()))
            }
            Role::Client => None,
        };
        let mut seed = [0; 8];
        // Without randomness refreshes are merely less spread out; keys do not depend on it.
        let _ = getrandom::fill(&mut seed);
        let seed = u64::from_le_bytes(seed);
        let core = Core::new(endpoint.node_id(), listen_port, config.limits, seed);
        let shared = Shared::new(core, Peers::new(endpoint, MAX_CONNECTIONS), config.metrics);
        let bootstrap = Arc::new(Bootstrap::new(config.bootstrap));
        let announcer = Arc::new(Announcer::default());
        let table_file = config.state_dir.map(|dir| TableFile::in_dir(&dir));
        let remembered = match &table_file {
            Some(file) => load(file).await,
            None => Vec::new(),
        };
        let expects_peers = !bootstrap.is_first_node() || !remembered.is_empty();
        shared.feed(Event::Remembered { contacts: remembered });
        shared.tasks.spawn(Arc::clone(&shared).keep_time());
        shared.tasks.spawn(Arc::clone(&bootstrap).run(Arc::clone(&shared), seed));
        shared.tasks.spawn(Arc::clone(&announcer).run(Arc::clone(&shared)));
        if let Some(file) = table_file.clone() {
            shared.tasks.spawn(save_now_and_then(file, Arc::clone(&shared)));
        }
        Self { inner: Arc::new(Inner { shared, bootstrap, announcer, table_file, expects_peers }) }
    }

    /// Waits until a first peer of the swarm is known, at most `patience`. The first node of a swarm (no bootstrap
    /// peers, no saved table) does not wait. Joining goes on after an error.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn joined(&self, patience: Duration) -> Result<(), JoinError> {
        if !self.inner.expects_peers {
            return Ok(());
        }
        let mut table_len = self.inner.shared.table_len();
        match tokio::time::timeout(patience, table_len.wait_for(|len| *len > 0)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.inner.bootstrap.error()),
        }
    }

    /// Answers one request of `peer` (identity by handshake, address as seen). `None` = refuse the stream: junk, or
    /// the peer asks too fast.
    pub fn handle_request(&self, peer: Peer, kind: FrameKind, body: &Bytes) -> Option<(FrameKind, Bytes)> {
        let request = match Request::decode(kind, body) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(peer = %peer.node.short(), %error, "bad discovery request");
                return None;
            }
        };
        self.inner.shared.feed(Event::Request { peer, request }).map(|response| response.encode())
    }

    /// Answers every request on a connection of class discovery until it ends or the DHT is shut down. The owner of
    /// the endpoint's accept loop spawns this for each such connection.
    pub async fn serve_connection(&self, connection: Connection) {
        let mut streams = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = self.inner.shared.stop.cancelled() => {
                    connection.close(CloseCode::ShuttingDown, "discovery ends");
                    return;
                }
                accepted = connection.accept_bi() => accepted,
                Some(_) = streams.join_next() => continue,
            };
            let Ok((sender, receiver)) = accepted else { return };
            let peer = Peer { node: connection.peer(), addr: connection.remote_addr() };
            let dht = self.clone();
            // As many as the class lets the peer open at a time.
            streams.spawn(async move { dht.serve_stream(peer, sender, receiver).await });
        }
    }

    /// Who we are.
    pub fn node_id(&self) -> NodeId {
        self.inner.shared.peers.endpoint().node_id()
    }

    /// Peers in the routing table.
    pub fn table_len(&self) -> usize {
        self.inner.shared.read(Core::table_len)
    }

    /// Records held, for others and ourselves, once per key.
    pub fn records(&self) -> usize {
        self.inner.shared.read(Core::records)
    }

    /// Ends all tasks, saves the routing table, and waits for both. The endpoint lives on. What was announced is
    /// not withdrawn: call [`Directory::withdraw`] before, if the node leaves for good.
    pub async fn shutdown(&self) {
        let shared = &self.inner.shared;
        shared.stop.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
        if let Some(file) = &self.inner.table_file {
            save(file, shared).await;
        }
    }

    async fn serve_stream(&self, peer: Peer, mut sender: FrameSender, mut receiver: FrameReceiver) {
        let Ok(Ok(Some(frame))) = tokio::time::timeout(READ_TIMEOUT, receiver.recv()).await else { return };
        match self.handle_request(peer, frame.kind, &frame.body) {
            Some((kind, body)) => {
                // A peer that went away does not want its answer.
                if sender.send(kind, body).await.is_ok() {
                    sender.finish();
                }
            }
            None => sender.reset(CloseCode::Overload),
        }
    }

    /// Gives a young process the chance to join before it asks or announces into the void.
    async fn settle(&self) {
        if !self.inner.expects_peers || self.table_len() > 0 {
            return;
        }
        let give_up = Instant::now() + JOIN_PATIENCE;
        let mut table_len = self.inner.shared.table_len();
        while Instant::now() < give_up && !self.inner.bootstrap.all_failed() {
            // Looks at `all_failed` now and then: it has no event of its own.
            let look_again = Instant::now() + Duration::from_millis(50);
            tokio::select! {
                () = self.inner.shared.stop.cancelled() => return,
                known = table_len.wait_for(|len| *len > 0) => { drop(known); return }
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }
}

impl Directory for Dht {
    fn announce(&self, announcement: Announcement) -> DirectoryFuture<'_, Result<Published, PublishError>> {
        Box::pin(async move {
            self.settle().await;
            self.inner.announcer.announce(&self.inner.shared, announcement).await
        })
    }

    fn withdraw(&self) -> DirectoryFuture<'_, Result<Published, PublishError>> {
        Box::pin(self.inner.announcer.withdraw(&self.inner.shared))
    }

    fn publish(&self, record: SignedRecord) -> DirectoryFuture<'_, Result<Published, PublishError>> {
        Box::pin(async move {
            self.settle().await;
            announcer::publish(&self.inner.shared, record).await
        })
    }

    fn lookup(&self, key: DhtKey) -> DirectoryFuture<'_, Result<Vec<VerifiedRecord>, LookupError>> {
        Box::pin(async move {
            self.settle().await;
            let shared = &self.inner.shared;
            let started = Instant::now();
            let outcome = shared.operate(|operation| Event::Lookup { operation, key }).await;
            let found = match outcome {
                Some(Outcome::Found(Ok(found))) => {
                    Ok(found.records.iter().map(|record| VerifiedRecord::clone(record)).collect())
                }
                Some(Outcome::Found(Err(LookupError::NoPeers(_)))) if !self.inner.expects_peers => {
                    Ok(Vec::new())
                }
                Some(Outcome::Found(Err(LookupError::NoPeers(_)))) => {
                    Err(LookupError::NoPeers(self.inner.bootstrap.error().to_string()))
                }
                Some(Outcome::Found(Err(error))) => Err(error),
                Some(Outcome::Published(_)) | None => Err(LookupError::ShutDown),
            };
            shared.metrics.lookup_ended(found.as_ref().map(Vec::len), started.elapsed());
            found
        })
    }
}

async fn load(file: &TableFile) -> Vec<Contact> {
    file.load().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "starting with an empty routing table");
        Vec::new()
    })
}

async fn save_now_and_then(file: TableFile, shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(SAVE_EVERY) => save(&file, &shared).await,
        }
    }
}

async fn save(file: &TableFile, shared: &Shared) {
    let contacts = shared.read(Core::contacts);
    // An empty table would only forget where the swarm was.
    if contacts.is_empty() {
        return;
    }
    if let Err(error) = file.save(&contacts).await {
        tracing::warn!(%error, "routing table not saved");
    }
}

/// Discovery connections kept open: the routing table of a swarm of 10,000 has about 200 contacts.
const MAX_CONNECTIONS: usize = 256;
/// A request is one small frame; who takes longer to send it than a reply may take is not served.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a lookup or announcement of a young process waits for the first peer.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// How old a saved table may be after a crash.
const SAVE_EVERY: Duration = Duration::from_mins(2);
