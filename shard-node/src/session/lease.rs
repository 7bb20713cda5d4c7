//! How long a session lives without its router.

use std::time::{Duration, Instant};

use proto::status::CloseCode;

/// Ends `length` after the router's last frame, or after its connection was lost.
#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    heard: Instant,
    lost: Option<Instant>,
}

impl Lease {
    pub(super) const fn new(now: Instant, length: Duration) -> Self {
        Self { length, heard: now, lost: None }
    }

    /// A frame of the router for this session came.
    pub(super) const fn renew(&mut self, now: Instant) {
        self.heard = now;
        self.lost = None;
    }

    pub(super) fn router_lost(&mut self, now: Instant) {
        self.lost.get_or_insert(now);
    }

    /// Why it is over, if it is.
    pub(super) fn expired(&self, now: Instant) -> Option<CloseCode> {
        let over = |since: Instant| now.saturating_duration_since(since) >= self.length;
        match self.lost {
            Some(lost) => over(lost).then_some(CloseCode::RouterLost),
            None => over(self.heard).then_some(CloseCode::LeaseExpired),
        }
    }
}
