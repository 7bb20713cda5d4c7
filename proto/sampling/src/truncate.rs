//! Top-k, top-p and min-p, each as one cut through the order "larger logit first, then lower token".
//!
//! Every one of the three keeps a beginning of that order, so their result is a single point in it: no list of
//! survivors is built and nothing is sorted but the few candidates around the point. Probability mass is summed
//! in fixed point, so the sum does not depend on the order of summation.

use std::cmp::Ordering;

use crate::portable_math::{exp_f32, ln_f64};
use crate::scan::LANES;

/// The last token that is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cut {
    pub(crate) logit: f32,
    pub(crate) token: u32,
}

/// Memory that the cuts reuse from call to call.
#[derive(Debug, Clone, Default)]
pub(crate) struct CutScratch {
    candidates: Vec<Cut>,
    masses: Vec<u64>,
}

impl Cut {
    /// Keeps every token whose logit is not `-inf`.
    pub(crate) const KEEP_ALL: Self = Self { logit: f32::MIN, token: u32::MAX };

    /// Whether a token is kept.
    #[inline]
    pub(crate) fn keeps(&self, logit: f32, token: u32) -> bool {
        logit > self.logit || (logit == self.logit && token <= self.token)
    }

    /// Keeps the `k` first tokens.
    pub(crate) fn top_k(logits: &[f32], k: usize, scratch: &mut CutScratch) -> Self {
        let best = &mut scratch.candidates;
        best.clear();
        let capacity = (2 * k).max(1024);
        let mut threshold = f32::NEG_INFINITY;
        for (chunk_index, chunk) in logits.chunks(LANES).enumerate() {
            if !chunk.iter().fold(false, |any, &l| any | (l > threshold)) {
                continue;
            }
            for (i, &logit) in chunk.iter().enumerate() {
                // Tokens come in ascending order: one that only equals the k-th so far comes after it.
                if logit > threshold {
                    best.push(Self { logit, token: (chunk_index * LANES + i) as u32 });
                }
            }
            if best.len() >= capacity {
                best.select_nth_unstable_by(k - 1, Self::order);
                best.truncate(k);
                threshold = best[k - 1].logit;
            }
        }
        if best.len() < k {
            return Self::KEEP_ALL;
        }
        *best.select_nth_unstable_by(k - 1, Self::order).1
    }

    /// Keeps the shortest beginning of what `self` keeps that holds at least `p` of its probability (and at
    /// least one token).
    pub(crate) fn top_p(self, logits: &[f32], max: f32, temperature: f32, p: f32, scratch: &mut CutScratch) -> Self {
        let weights = Weights { max, cold: 1.0 / temperature };
        let masses = &mut scratch.masses;
        masses.clear();
        masses.resize(BUCKETS, 0);
        self.for_each_kept(logits, |logit, _| {
            let depth = weights.depth(logit);
            masses[bucket(depth)] += weights.mass(depth);
        });
        let total: u64 = masses.iter().sum();
        let target = ((f64::from(p) * total as f64).ceil() as u64).clamp(1, total);
        let mut before = 0;
        let mut crossing = 0;
        for (index, &mass) in masses.iter().enumerate() {
            if before + mass >= target {
                crossing = index;
                break;
            }
            before += mass;
        }
        let candidates = &mut scratch.candidates;
        candidates.clear();
        self.for_each_kept(logits, |logit, token| {
            if bucket(weights.depth(logit)) == crossing {
                candidates.push(Self { logit, token });
            }
        });
        weights.reach(candidates, target - before)
    }

    /// Keeps tokens at least `min_p` times as probable as the most probable one.
    pub(crate) fn min_p(max: f32, temperature: f32, min_p: f32) -> Self {
        let exact = f64::from(max) + f64::from(temperature) * ln_f64(f64::from(min_p));
        let rounded = exact as f32;
        let logit = if f64::from(rounded) < exact { rounded.next_up() } else { rounded };
        Self { logit: logit.max(f32::MIN), token: u32::MAX }
    }

    /// The cut that keeps what both keep.
    pub(crate) fn and(self, other: Self) -> Self {
        if Self::order(&self, &other) == Ordering::Less { self } else { other }
    }

    /// Calls `visit` for every kept token, in ascending order of tokens.
    #[inline]
    pub(crate) fn for_each_kept(self, logits: &[f32], mut visit: impl FnMut(f32, u32)) {
        for (chunk_index, chunk) in logits.chunks(LANES).enumerate() {
            if !chunk.iter().fold(false, |any, &l| any | (l >= self.logit)) {
                continue;
            }
            for (i, &logit) in chunk.iter().enumerate() {
                let token = (chunk_index * LANES + i) as u32;
                if self.keeps(logit, token) {
                    visit(logit, token);
                }
            }
        }
    }

    /// Larger logits first, then lower tokens. There is no NaN among logits; -0 and 0 are equal.
    fn order(a: &Self, b: &Self) -> Ordering {
        b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
    }
}

/// Unnormalised probabilities relative to the most probable token.
struct Weights {
    max: f32,
    /// 1 / temperature.
    cold: f32,
}

impl Weights {
    /// How far a logit lies below the largest, in units of temperature; falls when the logit rises.
    #[inline]
    fn depth(&self, logit: f32) -> f32 {
        (self.max - logit) * self.cold
    }

    /// `e^-depth` in units of 2^-40; below 1e-12 of the most probable token it is nothing.
    #[inline]
    fn mass(&self, depth: f32) -> u64 {
        (exp_f32(-depth) * 1_099_511_627_776.0) as u64
    }

    /// The first candidate, in order, at which the mass reaches `target`. Selection by halves: linear time.
    fn reach(&self, candidates: &mut [Cut], target: u64) -> Cut {
        let (mut rest, mut target) = (candidates, target);
        while rest.len() > 1 {
            let middle = rest.len() / 2;
            rest.select_nth_unstable_by(middle, Cut::order);
            let (front, back) = rest.split_at_mut(middle);
            let mass: u64 = front.iter().map(|c| self.mass(self.depth(c.logit))).sum();
            if mass >= target {
                rest = front;
            } else {
                target -= mass;
                rest = back;
            }
        }
        rest.first().copied().unwrap_or(Cut::KEEP_ALL)
    }
}

/// 64 buckets per factor of e, down to e^-32; whatever lies deeper shares the last one.
fn bucket(depth: f32) -> usize {
    ((depth * 64.0) as usize).min(BUCKETS - 1)
}

const BUCKETS: usize = 2048;
