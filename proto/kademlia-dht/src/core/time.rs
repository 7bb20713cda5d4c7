//! Time as the core is told it. The core never reads a clock: whoever drives it passes [`Now`].

use std::time::Duration;

/// One instant on two clocks: a monotonic one for timers and the calendar for leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since the core was created; never goes backwards.
    pub elapsed: Duration,
    /// Seconds since the Unix epoch; may jump.
    pub unix_seconds: u64,
}
