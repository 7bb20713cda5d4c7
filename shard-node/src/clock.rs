//! The wall clock: the only place of this crate that reads it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch; 0 on a clock before it.
pub(crate) fn unix_seconds() -> u64 {
    unix_nanos() / 1_000_000_000
}

/// Nanoseconds since the Unix epoch; 0 on a clock before it.
#[expect(clippy::disallowed_methods, reason = "the shell's one reading of the wall clock")]
pub(crate) fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
