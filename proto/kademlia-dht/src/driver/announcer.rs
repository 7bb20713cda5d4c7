//! Keeps the node's announcement alive: signs and publishes it afresh at a third of its lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::record::SignedRecord;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::shared::Shared;
use crate::clock::unix_millis;
use crate::core::{Event, Outcome};
use crate::directory::{Announcement, PublishError, Published};

/// At most one announcement: records are kept per signer.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Announcement>,
    /// When it is due again.
    due: Option<Instant>,
    /// Time of the last signature: two of one process never share a sequence.
    last_millis: u64,
}

impl Announcer {
    pub(super) async fn announce(
        &self,
        shared: &Arc<Shared>,
        announcement: Announcement,
    ) -> Result<Published, PublishError> {
        let record = {
            let mut state = self.lock();
            let millis = state.next_millis();
            let record = announcement.sign_at(millis)?;
            state.due = Some(Instant::now() + period(&announcement));
            state.current = Some(announcement);
            record
        };
        self.changed.notify_one();
        let published = publish(shared, record).await;
        self.retry_soon_if(published.is_err());
        published
    }

    pub(super) async fn withdraw(&self, shared: &Arc<Shared>) -> Result<Published, PublishError> {
        let tombstone = {
            let mut state = self.lock();
            state.due = None;
            let Some(announcement) = state.current.take() else { return Ok(Published::default()) };
            let millis = state.next_millis();
            announcement.tombstone_at(millis)?
        };
        self.changed.notify_one();
        publish(shared, tombstone).await
    }

    /// Runs until the end.
    pub(super) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        loop {
            let due = self.lock().due;
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = wait => self.renew(&shared).await,
            }
        }
    }

    async fn renew(&self, shared: &Arc<Shared>) {
        let signed = {
            let mut state = self.lock();
            let millis = state.next_millis();
            let Some(announcement) = &state.current else { return };
            let signed = announcement.sign_at(millis);
            let period = period(announcement);
            state.due = Some(Instant::now() + period);
            signed
        };
        let published = match signed {
            Ok(record) => publish(shared, record).await,
            Err(error) => Err(PublishError::Invalid(error)),
        };
        if let Err(error) = &published {
            tracing::warn!(%error, "announcement not renewed");
        }
        self.retry_soon_if(published.is_err());
    }

    fn retry_soon_if(&self, failed: bool) {
        if failed {
            let mut state = self.lock();
            let soon = Instant::now() + RETRY_AFTER;
            state.due = state.due.map(|due| due.min(soon));
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_millis(&mut self) -> u64 {
        self.last_millis = unix_millis().max(self.last_millis + 1);
        self.last_millis
    }
}

/// Publishes one record and waits until all stores have ended.
pub(super) async fn publish(shared: &Arc<Shared>, record: SignedRecord) -> Result<Published, PublishError> {
    let outcome = shared.operate(|operation| Event::Publish { operation, record }).await;
    let published = match outcome {
        Some(Outcome::Published(published)) => published,
        Some(Outcome::Found(_)) | None => Err(PublishError::ShutDown),
    };
    shared.metrics.publication_ended(&published);
    published
}

/// A third of the lease: two announcements may fail before anybody forgets us.
fn period(announcement: &Announcement) -> Duration {
    Duration::from_secs(u64::from(announcement.record().lease_s)) / 3
}

/// After a failed round: soon enough for a short lease, rare enough for a long outage.
const RETRY_AFTER: Duration = Duration::from_secs(5);
