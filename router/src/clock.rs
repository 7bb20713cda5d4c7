//! The calendar clock, read in one place: leases of records are calendar times.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch; 0 if the machine's clock stands before it.
pub fn unix_seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the router's one reading of the calendar clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
