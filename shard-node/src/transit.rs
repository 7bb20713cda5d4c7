//! How long a frame was under way, from two clocks that do not agree.
//!
//! On one machine the clocks are one. Between machines `received - sent` is transit plus an unknown offset; the
//! smallest difference of a connection stands for the fastest transit, which is taken to be half the smallest RTT, so
//! `difference - smallest + half the RTT` estimates this frame's transit. Clock drift over a connection's life is not
//! corrected.

use std::time::Duration;

/// The offset of one peer's clock, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct TransitClock {
    smallest_ns: Option<i128>,
}

impl TransitClock {
    /// How long a frame was under way that was sent at `sent_ns` by the peer's clock and received at `received_ns` by
    /// ours. `same_machine` takes both as one clock; `rtt` is the smallest seen.
    pub(crate) fn under_way(
        &mut self,
        sent_ns: u64,
        received_ns: u64,
        same_machine: bool,
        rtt: Duration,
    ) -> Duration {
        let difference = i128::from(received_ns) - i128::from(sent_ns);
        if same_machine {
            return nanos(difference);
        }
        let smallest = self.smallest_ns.map_or(difference, |known| known.min(difference));
        self.smallest_ns = Some(smallest);
        nanos(difference - smallest) + rtt / 2
    }
}

fn nanos(difference: i128) -> Duration {
    // A frame from the future, or from years ago, comes from a wrong or hostile clock: only a figure suffers.
    Duration::from_nanos(u64::try_from(difference.max(0)).unwrap_or(u64::MAX)).min(Duration::from_hours(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_between_clocks_cancels() {
        let rtt = Duration::from_millis(10);
        for offset in [-5_000_000_000_i64, 0, 7_000_000_000] {
            let mut clock = TransitClock::default();
            let mut under_way = |transit_ns: u64| {
                let sent = 100_000_000_000_u64;
                let received = sent + transit_ns;
                clock.under_way(sent.wrapping_add_signed(offset), received, false, rtt)
            };
            assert_eq!(under_way(5_000_000), Duration::from_millis(5));
            assert_eq!(under_way(9_000_000), Duration::from_millis(9));
            assert_eq!(under_way(5_000_000), Duration::from_millis(5));
        }
    }

    #[test]
    fn one_clock_is_taken_as_it_is_and_nonsense_does_not_panic() {
        let mut clock = TransitClock::default();
        assert_eq!(clock.under_way(1_000, 31_000, true, Duration::ZERO), Duration::from_micros(30));
        assert_eq!(clock.under_way(31_000, 1_000, true, Duration::ZERO), Duration::ZERO);
        clock.under_way(u64::MAX, 0, false, Duration::MAX);
        clock.under_way(0, u64::MAX, false, Duration::ZERO);
    }
}
