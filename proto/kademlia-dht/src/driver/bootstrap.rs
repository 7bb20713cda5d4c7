//! Finding the swarm: dials the bootstrap peers until one answers, and again whenever the table is empty.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::discovery::Contact;
use proto_transport::{ConnectionClass, Target};
use tokio::task::JoinSet;

use super::shared::Shared;
use crate::core::Event;

/// Why no peer of the swarm is known: every bootstrap peer with what went wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinError {
    /// Address and the last error of each; empty if none was configured.
    pub peers: Vec<(std::net::SocketAddr, String)>,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.peers.is_empty() {
            return f.write_str("no bootstrap peer has been reached yet: give --bootstrap NODEID@HOST:PORT");
        }
        f.write_str("no bootstrap peer was reached: ")?;
        for (index, (_, problem)) in self.peers.iter().enumerate() {
            f.write_str(if index > 0 { "; " } else { "" })?;
            f.write_str(problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for JoinError {}

/// The bootstrap peers and how dialling them went.
#[derive(Debug)]
pub(super) struct Bootstrap {
    targets: Vec<Target>,
    /// Last problem per target; one entry each.
    problems: Mutex<BTreeMap<usize, String>>,
}

impl Bootstrap {
    pub(super) fn new(targets: Vec<Target>) -> Self {
        Self { targets, problems: Mutex::default() }
    }

    pub(super) fn is_first_node(&self) -> bool {
        self.targets.is_empty()
    }

    /// What went wrong so far.
    pub(super) fn error(&self) -> JoinError {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let peers = problems.iter().map(|(at, problem)| (self.targets[*at].addr, problem.clone())).collect();
        JoinError { peers }
    }

    /// Whether every peer was tried in vain at least once.
    pub(super) fn all_failed(&self) -> bool {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        !self.targets.is_empty() && problems.len() == self.targets.len()
    }

    /// Runs until the end.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>, jitter: u64) {
        if self.targets.is_empty() {
            return;
        }
        let mut table_len = shared.table_len();
        let mut backoff = FIRST_BACKOFF;
        loop {
            let reached = tokio::select! {
                () = shared.stop.cancelled() => return,
                reached = self.dial_all(&shared) => reached,
            };
            if reached > 0 {
                backoff = FIRST_BACKOFF;
                // Nothing to do until everybody is lost.
                let lost = table_len.wait_for(|len| *len == 0);
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    lost = lost => if lost.is_err() { return },
                }
                tracing::warn!("all peers of the swarm are lost: dialling the bootstrap peers again");
            } else {
                tracing::warn!(error = %self.error(), retry_in = ?backoff, "swarm not reached");
            }
            // Up to a quarter more, so that a swarm that lost its bootstrap peer does not come back as one.
            let pause = backoff + backoff.mul_f64((jitter % 256) as f64 / 1024.0);
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Dials every peer once, all at the same time; returns how many answered.
    async fn dial_all(&self, shared: &Arc<Shared>) -> usize {
        let mut dials = JoinSet::new();
        for (at, target) in self.targets.iter().copied().enumerate() {
            let endpoint = shared.peers.endpoint().clone();
            dials.spawn(
                async move { (at, target, endpoint.connect(target, ConnectionClass::Discovery).await) },
            );
        }
        let own = shared.peers.endpoint().node_id();
        let mut reached = 0;
        while let Some(dialled) = dials.join_next().await {
            // A dial that panicked was reported by tokio and counts as not reached.
            let Ok((at, target, dialled)) = dialled else { continue };
            let problem = match dialled {
                Ok(connection) if connection.peer() == own => {
                    Some(format!("{} is this node itself", target.addr))
                }
                Ok(connection) => {
                    let contact = Contact { node: connection.peer(), addr: target.addr };
                    shared.feed(Event::Joined { contact });
                    reached += 1;
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
            match problem {
                Some(problem) => problems.insert(at, problem),
                None => problems.remove(&at),
            };
        }
        reached
    }
}

/// A bootstrap node that is just starting is there within a second.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
