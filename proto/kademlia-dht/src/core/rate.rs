//! Token buckets per caller, bounded in number. Decides only; refusing is the caller's business.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// How fast a bucket fills and how much it holds.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Tokens per second.
    pub per_second: f64,
    /// Most tokens that can be saved up.
    pub burst: f64,
}

/// One token bucket per key, for at most `capacity` keys.
#[derive(Debug)]
pub(crate) struct RateLimiter<K> {
    rate: Rate,
    capacity: usize,
    buckets: HashMap<K, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl<K: Hash + Eq + Copy> RateLimiter<K> {
    pub(crate) fn new(rate: Rate, capacity: usize) -> Self {
        Self { rate, capacity, buckets: HashMap::new() }
    }

    /// Takes one token of `key`, or says no. A new key is refused while all places are taken by keys whose
    /// buckets are not yet full again, so that many identities cannot wash each other's history away.
    pub(crate) fn take(&mut self, key: K, now: Duration) -> bool {
        if !self.buckets.contains_key(&key) {
            if self.buckets.len() >= self.capacity {
                self.forget_idle(now);
            }
            if self.buckets.len() >= self.capacity {
                return false;
            }
            self.buckets.insert(key, Bucket { tokens: self.rate.burst, at: now });
        }
        let rate = self.rate;
        self.buckets.get_mut(&key).is_some_and(|bucket| bucket.take(rate, now))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.buckets.len()
    }

    fn forget_idle(&mut self, now: Duration) {
        let rate = self.rate;
        self.buckets.retain(|_, bucket| bucket.level(rate, now) < rate.burst);
    }
}

impl Bucket {
    fn level(&self, rate: Rate, now: Duration) -> f64 {
        let gained = now.saturating_sub(self.at).as_secs_f64() * rate.per_second;
        (self.tokens + gained).min(rate.burst)
    }

    fn take(&mut self, rate: Rate, now: Duration) -> bool {
        self.tokens = self.level(rate, now);
        self.at = now;
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 2.0, burst: 4.0 };

    #[test]
    fn burst_then_steady_rate() {
        let mut limiter = RateLimiter::new(RATE, 8);
        let granted = (0..10).filter(|_| limiter.take(1, Duration::ZERO)).count();
        assert_eq!(granted, 4);
        let granted = (0..10).filter(|_| limiter.take(1, Duration::from_secs(1))).count();
        assert_eq!(granted, 2);
        assert!(limiter.take(2, Duration::ZERO), "another key has its own bucket");
    }

    #[test]
    fn many_keys_do_not_grow_it_and_do_not_wash_out_history() {
        let mut limiter = RateLimiter::new(RATE, 8);
        while limiter.take(0, Duration::ZERO) {}
        for key in 1..10_000 {
            limiter.take(key, Duration::ZERO);
        }
        assert_eq!(limiter.len(), 8);
        assert!(!limiter.take(0, Duration::ZERO));
        assert!(limiter.take(77, Duration::from_secs(10)), "idle keys make room");
    }
}
