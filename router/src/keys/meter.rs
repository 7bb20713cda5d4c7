//! Limits of keys as a machine: token buckets for requests and tokens, a count of what runs. Pure; the time is an
//! argument, counted from any fixed moment.

use std::collections::HashMap;
use std::time::Duration;

use super::record::{KeyId, KeyLimits};

/// What each key is using.
#[derive(Debug, Default)]
pub struct Meter {
    // Bounded by the number of keys.
    keys: HashMap<KeyId, State>,
}

#[derive(Debug, Default)]
struct State {
    running: u32,
    requests: Bucket,
    tokens: Bucket,
}

/// Fills at a limit's rate up to a minute's worth. It may be overdrawn: what an answer takes is known afterwards.
#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    used: f64,
    at: Duration,
}

/// A limit of a key is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Exceeded {
    /// Requests a minute.
    #[error("this key may send {limit} requests a minute")]
    Requests {
        /// As many.
        limit: u32,
        /// When one more may come.
        retry_after: Duration,
    },
    /// Tokens a minute.
    #[error("this key may use {limit} tokens a minute")]
    Tokens {
        /// As many.
        limit: u32,
        /// When it has some again.
        retry_after: Duration,
    },
    /// Requests at once.
    #[error("this key may have {limit} requests at once")]
    Concurrent {
        /// As many.
        limit: u32,
    },
}

impl Exceeded {
    /// When it is worth trying again.
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Requests { retry_after, .. } | Self::Tokens { retry_after, .. } => *retry_after,
            // When one ends is not known.
            Self::Concurrent { .. } => Duration::from_secs(1),
        }
    }
}

const MINUTE: f64 = 60.0;

impl Bucket {
    /// What is in use of a minute's worth by now.
    fn drained(self, now: Duration, limit: u32) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        (self.used - passed * f64::from(limit) / MINUTE).max(0.0)
    }

    fn add(&mut self, now: Duration, limit: u32, amount: f64) {
        self.used = self.drained(now, limit) + amount;
        self.at = now;
    }

    /// How long until `amount` more fit, if they do not now.
    fn wait(self, now: Duration, limit: u32, amount: f64) -> Option<Duration> {
        let over = self.drained(now, limit) + amount - f64::from(limit);
        (over > 0.0).then(|| Duration::from_secs_f64((over * MINUTE / f64::from(limit.max(1))).min(MAX_WAIT)))
    }
}

/// Whoever has overdrawn by more is told to come back and ask again.
const MAX_WAIT: f64 = 3600.0;

impl Meter {
    /// A request of this key begins, unless a limit is reached.
    pub fn begin(&mut self, now: Duration, key: &KeyId, limits: KeyLimits) -> Result<(), Exceeded> {
        let state = self.keys.entry(key.clone()).or_default();
        if let Some(limit) = limits.concurrent.filter(|&limit| state.running >= limit) {
            return Err(Exceeded::Concurrent { limit });
        }
        if let Some(limit) = limits.tokens_per_minute
            && let Some(retry_after) = state.tokens.wait(now, limit, 1.0)
        {
            return Err(Exceeded::Tokens { limit, retry_after });
        }
        if let Some(limit) = limits.requests_per_minute {
            if let Some(retry_after) = state.requests.wait(now, limit, 1.0) {
                return Err(Exceeded::Requests { limit, retry_after });
            }
            state.requests.add(now, limit, 1.0);
        }
        state.running += 1;
        Ok(())
    }

    /// It is over and has used so many tokens.
    pub fn end(&mut self, now: Duration, key: &KeyId, limits: KeyLimits, tokens: u64) {
        let Some(state) = self.keys.get_mut(key) else { return };
        state.running = state.running.saturating_sub(1);
        if let Some(limit) = limits.tokens_per_minute {
            state.tokens.add(now, limit, tokens as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::{KeySet, Secret};

    fn key() -> KeyId {
        KeySet::default().create(&Secret::of_random([1; 32]), "k", 0, KeyLimits::default()).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_limit_is_kept_and_says_when_to_come_back() {
        let (mut meter, key) = (Meter::default(), key());
        let limits = KeyLimits { requests_per_minute: Some(3), ..KeyLimits::default() };
        for _ in 0..3 {
            meter.begin(SECOND, &key, limits).unwrap();
        }
        let Err(Exceeded::Requests { retry_after, .. }) = meter.begin(SECOND, &key, limits) else { panic!() };
        assert_eq!(retry_after, 20 * SECOND);
        meter.begin(SECOND + retry_after, &key, limits).unwrap();
        let limits = KeyLimits { concurrent: Some(4), ..KeyLimits::default() };
        assert_eq!(meter.begin(SECOND, &key, limits), Err(Exceeded::Concurrent { limit: 4 }));
        meter.end(SECOND, &key, limits, 0);
        meter.begin(SECOND, &key, limits).unwrap();
        // An answer may overdraw; then it is waited for.
        let (mut meter, limits) =
            (Meter::default(), KeyLimits { tokens_per_minute: Some(600), ..KeyLimits::default() });
        meter.begin(SECOND, &key, limits).unwrap();
        meter.end(SECOND, &key, limits, 1200);
        let Err(Exceeded::Tokens { retry_after, .. }) = meter.begin(SECOND, &key, limits) else { panic!() };
        assert!(retry_after.as_secs() == 60, "{retry_after:?}");
        meter.begin(SECOND + retry_after, &key, limits).unwrap();
    }

    proptest! {
        /// Over any stretch no more come through than a minute's worth and what was filled up since.
        #[test]
        fn no_more_come_through_than_the_rate_allows(gaps in prop::collection::vec(0u64..3000, 1..300), limit in 1u32..60) {
            let (mut meter, key) = (Meter::default(), key());
            let limits = KeyLimits { requests_per_minute: Some(limit), ..KeyLimits::default() };
            let (mut now, mut through) = (Duration::ZERO, 0u32);
            for gap in gaps {
                now += Duration::from_millis(gap);
                through += u32::from(meter.begin(now, &key, limits).is_ok());
                let most = f64::from(limit) * (1.0 + now.as_secs_f64() / MINUTE);
                prop_assert!(f64::from(through) <= most + 1e-6, "{through} of {most}");
            }
        }
    }
}
