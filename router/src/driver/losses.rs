//! Lost connections as a session hears of them: apart from its queue of reports, which may be full.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// What was lost, by stage. Bounded by the number of stages: only the first loss of a stage counts.
#[derive(Debug, Default)]
pub(super) struct Losses {
    list: Mutex<Vec<(usize, String)>>,
    changed: Notify,
}

impl Losses {
    pub(super) fn report(&self, stage: usize, why: String) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.iter().any(|(known, _)| *known == stage) {
            list.push((stage, why));
        }
        self.changed.notify_one();
    }

    /// # Cancel safety
    /// Cancel-safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn list(&self) -> Vec<(usize, String)> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
