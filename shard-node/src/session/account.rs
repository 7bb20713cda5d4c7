//! What a stage did for a session: the figures of `Ended`.

use std::time::Duration;

use proto::Added;
use proto::session::Ended;

use super::micros;
use super::terms::Terms;

/// Sums and medians of one session on one stage.
#[derive(Debug, Default)]
pub struct Account {
    decode_steps: u32,
    prefill_rows: u32,
    skipped_rows: u32,
    prefill: Duration,
    decode_us: Recent,
    hop_us: Recent,
    decode_bytes: u64,
    since_credit: u32,
}

impl Account {
    pub(super) fn prefill(&mut self, rows: u32, took: Duration) {
        self.prefill_rows = self.prefill_rows.saturating_add(rows);
        self.prefill += took;
    }

    /// The prompt began so far into it.
    pub(super) const fn skipped(&mut self, rows: u32) {
        self.skipped_rows = rows;
    }

    pub(super) fn decode(&mut self, took: Duration, hop: Option<Duration>, bytes: u64) {
        self.decode_steps = self.decode_steps.saturating_add(1);
        self.since_credit = self.since_credit.saturating_add(1);
        self.decode_bytes = self.decode_bytes.saturating_add(bytes);
        self.decode_us.push(micros(took));
        if let Some(hop) = hop {
            self.hop_us.push(micros(hop));
        }
    }

    pub(super) const fn credit(&mut self) {
        self.since_credit = 0;
    }

    /// Decode rows computed since the router last asked for more.
    pub(super) const fn rows_since_credit(&self) -> u32 {
        self.since_credit
    }

    pub(super) fn ended(&self, terms: &Terms, waste_rows: u32) -> Ended {
        Ended {
            session: terms.key.session,
            generation: terms.generation,
            decode_steps: self.decode_steps,
            prefill_rows: self.prefill_rows,
            decode_us: self.decode_us.median(),
            prefill_us: micros(self.prefill),
            hop_us: self.hop_us.median(),
            decode_bytes: self.decode_bytes,
            waste_rows,
            skipped_rows: Added(self.skipped_rows),
        }
    }
}

/// The latest values, for a median. 512 of them: 2 KiB, and a median of the last 10 to 60 seconds.
#[derive(Debug, Default)]
struct Recent {
    values: Vec<u32>,
    next: usize,
}

impl Recent {
    const MOST: usize = 512;

    fn push(&mut self, value: u32) {
        if self.values.len() < Self::MOST {
            self.values.push(value);
        } else {
            self.values[self.next] = value;
            self.next = (self.next + 1) % Self::MOST;
        }
    }

    fn median(&self) -> u32 {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_latest_values() {
        let mut recent = Recent::default();
        assert_eq!(recent.median(), 0);
        (0..512).for_each(|_| recent.push(1_000_000));
        (0..512).for_each(|value| recent.push(value));
        assert_eq!(recent.median(), 256);
    }
}
