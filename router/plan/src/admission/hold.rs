//! How long places are held, and so when one should be free for whoever is refused now.

use std::time::Duration;

/// Moving average of how long a place is held.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// `None` before the first release.
    mean: Option<Duration>,
}

impl Hold {
    /// A place was held for so long.
    pub(super) fn ended(&mut self, held: Duration) {
        self.mean = Some(self.mean.map_or(held, |mean| (mean * (MEMORY - 1) + held) / MEMORY));
    }

    /// When a place should be free for one that comes after `ahead` others: places become free one after the other,
    /// each after the mean time it is held.
    pub(super) fn retry_after(&self, ahead: usize, places: usize) -> Duration {
        let hold = self.mean.unwrap_or(ASSUMED);
        (hold * (ahead as u32 + 1) / places.max(1) as u32).clamp(RETRY_SOONEST, RETRY_LATEST)
    }
}

/// The average forgets with the last sixteen answers.
const MEMORY: u32 = 16;
/// An answer of 256 tokens at 50 ms each, before one was seen.
const ASSUMED: Duration = Duration::from_secs(12);
/// A client that comes back sooner only adds load.
pub(super) const RETRY_SOONEST: Duration = Duration::from_millis(250);
/// Further ahead nothing is known.
pub(super) const RETRY_LATEST: Duration = Duration::from_mins(1);
