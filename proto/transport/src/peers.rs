//! One connection per (peer, class), dialled when first wanted, shared and re-dialled when dead. Owns the table
//! of what *we* dialled; accepted connections stay with whoever accepted them, so that two peers that dial
//! each other at once need not agree on a winner: each uses its own.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::{NodeId, handshake::ConnectionClass};
use tokio::{sync::watch, task::JoinSet};

use crate::{ConnectError, Connection, Endpoint, Target};

/// A bounded table of shared connections. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    capacity: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// Counts uses; orders entries by their last one.
    uses: u64,
}

type Key = (NodeId, ConnectionClass);
type Outcome = Option<Result<Connection, ConnectError>>;

#[derive(Debug)]
struct Entry {
    /// `None` while the dial runs.
    outcome: watch::Receiver<Outcome>,
    last_use: u64,
}

impl Peers {
    /// A table of at most `capacity` connections and dials on `endpoint`.
    pub fn new(endpoint: Endpoint, capacity: usize) -> Self {
        Self { inner: Arc::new(Inner { endpoint, capacity: capacity.max(1), table: Mutex::default() }) }
    }

    /// The endpoint that dials.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// The open connection to `peer`, or a new one. Callers that ask at the same time share one dial and its
    /// outcome. Several addresses are tried at once with a head start of 250 ms each; the first that
    /// is really `peer` wins. When the table is full, the connection unused for longest is let go (it closes
    /// when its last user drops it).
    ///
    /// # Cancel safety
    /// Cancel-safe: the dial goes on for others and the next call.
    pub async fn connection(
        &self,
        peer: NodeId,
        addrs: &[SocketAddr],
        class: ConnectionClass,
    ) -> Result<Connection, ConnectError> {
        let mut outcome = match self.find_or_dial(peer, addrs, class)? {
            Found::Open(connection) => return Ok(connection),
            Found::Dialling(outcome) => outcome,
        };
        // An error here means that the dialling task was dropped with its runtime.
        let done = outcome.wait_for(Option::is_some).await.map_err(|_| ConnectError::Stopped)?;
        done.clone().unwrap_or(Err(ConnectError::Stopped))
    }

    /// The open connection to `peer`, if there is one.
    pub fn get(&self, peer: NodeId, class: ConnectionClass) -> Option<Connection> {
        let mut table = self.lock();
        table.uses += 1;
        let now = table.uses;
        let entry = table.entries.get_mut(&(peer, class))?;
        entry.last_use = now;
        entry.open()
    }

    /// Lets go of the connections to `peer`; they close when their last users drop them.
    pub fn forget(&self, peer: NodeId) {
        self.lock().entries.retain(|(node, _), _| *node != peer);
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.lock().entries.values().filter(|entry| entry.open().is_some()).count()
    }

    fn find_or_dial(
        &self,
        peer: NodeId,
        addrs: &[SocketAddr],
        class: ConnectionClass,
    ) -> Result<Found, ConnectError> {
        let key = (peer, class);
        let mut table = self.lock();
        table.uses += 1;
        let now = table.uses;
        if let Some(entry) = table.entries.get_mut(&key) {
            entry.last_use = now;
            if let Some(connection) = entry.open() {
                return Ok(Found::Open(connection));
            }
            if entry.is_dialling() {
                return Ok(Found::Dialling(entry.outcome.clone()));
            }
            table.entries.remove(&key);
        }
        if addrs.is_empty() {
            return Err(ConnectError::NoAddress { node: peer });
        }
        table.make_room(self.inner.capacity)?;
        let (report, outcome) = watch::channel(None);
        table.entries.insert(key, Entry { outcome: outcome.clone(), last_use: now });
        let endpoint = self.inner.endpoint.clone();
        let addrs: Vec<SocketAddr> = addrs.iter().copied().take(MAX_ADDRESSES).collect();
        self.inner.endpoint.spawn(async move {
            let dialled = dial_any(endpoint, peer, addrs, class).await;
            // Nobody may be waiting any more; the table still holds a receiver, or has let go on purpose.
            let _ = report.send(Some(dialled));
        });
        Ok(Found::Dialling(outcome))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change under the lock is one map operation; a poisoned table is still a table.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Found {
    Open(Connection),
    Dialling(watch::Receiver<Outcome>),
}

impl Table {
    /// Drops the dead and leaves room for one more entry. Looks at every entry, which beside a handshake's
    /// millisecond is nothing.
    fn make_room(&mut self, capacity: usize) -> Result<(), ConnectError> {
        self.entries.retain(|_, entry| entry.is_dialling() || entry.open().is_some());
        while self.entries.len() >= capacity {
            let oldest = self
                .entries
                .iter()
                .filter(|(_, entry)| !entry.is_dialling())
                .min_by_key(|(_, entry)| entry.last_use)
                .map(|(key, _)| *key);
            let Some(oldest) = oldest else { return Err(ConnectError::TooManyDials) };
            self.entries.remove(&oldest);
        }
        Ok(())
    }
}

impl Entry {
    fn is_dialling(&self) -> bool {
        // A dial whose task is gone without an outcome is over.
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }

    fn open(&self) -> Option<Connection> {
        match &*self.outcome.borrow() {
            Some(Ok(connection)) if connection.close_reason().is_none() => Some(connection.clone()),
            _ => None,
        }
    }
}

/// Dials all addresses, each a little later than the one before; the first success wins. If none succeeds, the
/// most telling error is returned: who is really there rather than who did not answer.
async fn dial_any(
    endpoint: Endpoint,
    peer: NodeId,
    addrs: Vec<SocketAddr>,
    class: ConnectionClass,
) -> Result<Connection, ConnectError> {
    let mut dials = JoinSet::new();
    for (index, addr) in (0_u32..).zip(addrs) {
        let endpoint = endpoint.clone();
        dials.spawn(async move {
            tokio::time::sleep(HEAD_START * index).await;
            endpoint.connect(Target::node(peer, addr), class).await
        });
    }
    let mut worst = ConnectError::NoAddress { node: peer };
    while let Some(dialled) = dials.join_next().await {
        match dialled {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if telling(&error) >= telling(&worst) => worst = error,
            // A less telling error; or a dial that panicked, which tokio has reported.
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Err(worst)
}

fn telling(error: &ConnectError) -> u8 {
    match error {
        ConnectError::NoAddress { .. } => 0,
        ConnectError::BadAddress { .. } | ConnectError::Stopped | ConnectError::TooManyDials => 1,
        ConnectError::TimedOut { .. } => 2,
        ConnectError::Refused { .. } | ConnectError::Handshake { .. } => 3,
        ConnectError::VersionMismatch { .. } => 4,
        ConnectError::WrongNode { .. } => 5,
    }
}

/// A record announces few addresses (public, local, IPv6); more would make one record a scan.
const MAX_ADDRESSES: usize = 8;

/// Between two addresses of one peer: longer than most round trips, so that usually one dial is enough (RFC 8305
/// recommends 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);
