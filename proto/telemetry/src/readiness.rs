//! Whether a process may be given work, as a handle that its parts set and the admin endpoint reads.
//!
//! ```text
//! Starting(why) --> Ready --> Draining
//!       ^-------------'
//! ```
//! It does not decide anything: whoever loads weights or drains says so here.

use std::sync::Arc;

use tokio::sync::watch;

/// A process's readiness. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<ReadyState>>,
}

/// What `/readyz` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyState {
    /// Not yet; the text says what it is waiting for, e.g. `loading layers 0..10`.
    Starting(String),
    /// Work is accepted.
    Ready,
    /// Nothing new is accepted; what is open is being finished.
    Draining,
}

impl Readiness {
    /// A handle in state `Starting`.
    pub fn starting(waiting_for: impl Into<String>) -> Self {
        Self { state: Arc::new(watch::Sender::new(ReadyState::Starting(waiting_for.into()))) }
    }

    /// Replaces the state and wakes whoever waits.
    pub fn set(&self, state: ReadyState) {
        self.state.send_replace(state);
    }

    /// The state now.
    pub fn get(&self) -> ReadyState {
        self.state.borrow().clone()
    }

    /// Waits until the state is `Ready` or `Draining`, and returns it.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn settled(&self) -> ReadyState {
        let mut watcher = self.state.subscribe();
        let settled = watcher.wait_for(|state| !matches!(state, ReadyState::Starting(_))).await;
        // The sender lives as long as `self`, so waiting cannot fail; the state now is right either way.
        settled.map_or_else(|_| self.get(), |state| state.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settled_wakes_when_a_clone_becomes_ready() {
        let readiness = Readiness::starting("loading layers 0..10");
        let other = readiness.clone();
        let (state, ()) = tokio::join!(readiness.settled(), async move { other.set(ReadyState::Ready) });
        assert_eq!(state, ReadyState::Ready);
    }
}
