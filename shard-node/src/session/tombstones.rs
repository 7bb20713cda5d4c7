//! Generations that are over, for as long as a frame of them may still be under way.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use proto::Generation;

use super::terms::SessionKey;

/// The newest closed generation of each session, until its lease would have ended.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    newest: HashMap<SessionKey, (Generation, Instant)>,
    // In the order of burial, to find the oldest when there are too many.
    order: VecDeque<SessionKey>,
}

impl Tombstones {
    /// `generation` and all before it are over.
    pub(super) fn bury(&mut self, now: Instant, key: SessionKey, generation: Generation, lease: Duration) {
        let until = now + lease;
        if let Some(held) = self.newest.get_mut(&key) {
            *held = (held.0.max(generation), held.1.max(until));
            return;
        }
        if self.newest.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.newest.remove(&oldest);
        }
        self.newest.insert(key, (generation, until));
        self.order.push_back(key);
    }

    /// The newest generation known to be over.
    pub(super) fn newest(&self, key: &SessionKey) -> Option<Generation> {
        self.newest.get(key).map(|&(generation, _)| generation)
    }

    /// Forgets those whose lease has ended.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.newest.retain(|_, &mut (_, until)| until > now);
        let newest = &self.newest;
        self.order.retain(|key| newest.contains_key(key));
    }

    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }
}

/// About 8 MB. A router that closes sessions faster than 65,536 per lease only loses its own protection, and others'
/// for frames that come later than all these.
const MOST: usize = 65_536;
