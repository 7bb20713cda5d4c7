//! Top-k, top-p and min-p, each as one cut through the order "larger logit first, then lower token".
//!
//! Every one of the three keeps a beginning of that order, so their result is a single point in it: no list of
//! survivors is built and nothing is sorted but the few candidates around the point. Probability mass is summed
//! in fixed point, so the sum does not depend on the order of summation.

use std::cmp::Ordering;

use crate::portable_math::{LANES, exp_block, exp_f32, ln_f64};
use crate::scan::any_at_least;

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
    pub(crate) fn keeps(self, logit: f32, token: u32) -> bool {
        logit > self.logit || (logit == self.logit && token <= self.token)
    }

    /// Keeps the `k` first tokens.
    pub(crate) fn top_k(logits: &[f32], k: usize, scratch: &mut CutScratch) -> Self {
        let best = &mut scratch.candidates;
        best.clear();
        let capacity = (2 * k).max(1024);
        let mut threshold = f32::NEG_INFINITY;
        for (chunk_index, chunk) in logits.chunks(LANES).enumerate() {
            if !any_at_least(chunk, threshold) {
                continue;
            }
            for (i, &logit) in chunk.iter().enumerate() {
                // Tokens come in ascending order: one that only equals the k-th so far comes after it.
                if logit > threshold {
                    best.push(Self { logit, token: (chunk_index * LANES + i) as u32 });
                }
            }
            if best.len() >= capacity {
                best.select_nth_unstable_by(k - 1, |a, b| Self::order(*a, *b));
                best.truncate(k);
                threshold = best[k - 1].logit;
            }
        }
        if best.len() < k {
            return Self::KEEP_ALL;
        }
        *best.select_nth_unstable_by(k - 1, |a, b| Self::order(*a, *b)).1
    }

    /// Keeps the shortest beginning of what `self` keeps that holds at least `p` of its probability (and at
    /// least one token).
    pub(crate) fn top_p(
        self,
        logits: &[f32],
        max: f32,
        temperature: f32,
        p: f32,
        scratch: &mut CutScratch,
    ) -> Self {
        let weights = Weights { max, cold: 1.0 / temperature };
        let masses = &mut scratch.masses;
        masses.clear();
        masses.resize(BUCKETS, 0);
        self.for_each_block(logits, |first, block| {
            let mut buckets = [0; LANES];
            let mut shares = [0.0; LANES];
            for i in 0..LANES {
                let depth = weights.depth(block[i]);
                shares[i] = -depth;
                buckets[i] = bucket(depth);
            }
            exp_block(&mut shares);
            for i in 0..LANES {
                if self.keeps(block[i], first + i as u32) {
                    masses[buckets[i] as usize] += mass(shares[i]);
                }
            }
        });
        let total: u64 = masses.iter().sum();
        let target = ((f64::from(p) * total as f64).ceil() as u64).clamp(1, total);
        let mut before = 0;
        let mut crossing = 0;
        for (index, &mass) in masses.iter().enumerate() {
            if before + mass >= target {
                crossing = index as u32;
                break;
            }
            before += mass;
        }
        let candidates = &mut scratch.candidates;
        candidates.clear();
        self.for_each_block(logits, |first, block| {
            let mut here = 0u32;
            for &logit in block {
                here |= u32::from(bucket(weights.depth(logit)) == crossing);
            }
            if here == 0 {
                return;
            }
            for (i, &logit) in block.iter().enumerate() {
                let token = first + i as u32;
                if bucket(weights.depth(logit)) == crossing && self.keeps(logit, token) {
                    candidates.push(Self { logit, token });
                }
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
        if Self::order(self, other) == Ordering::Less { self } else { other }
    }

    /// Calls `visit` with the first token and the logits of every block that may hold a kept token, in ascending
    /// order. Blocks rather than tokens, so that arithmetic on all of a block becomes SIMD; the last one is filled
    /// up with `-inf`.
    #[inline]
    pub(crate) fn for_each_block(self, logits: &[f32], mut visit: impl FnMut(u32, &[f32; LANES])) {
        let (blocks, rest) = logits.as_chunks::<LANES>();
        for (index, block) in blocks.iter().enumerate() {
            if any_at_least(block, self.logit) {
                visit((index * LANES) as u32, block);
            }
        }
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        visit((blocks.len() * LANES) as u32, &last);
    }

    /// Larger logits first, then lower tokens. There is no NaN among logits; -0 and 0 are equal.
    fn order(a: Self, b: Self) -> Ordering {
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

    /// The first candidate, in order, at which the mass reaches `target`. Selection by halves: linear time.
    fn reach(&self, candidates: &mut [Cut], target: u64) -> Cut {
        let (mut rest, mut target) = (candidates, target);
        while rest.len() > 1 {
            let middle = rest.len() / 2;
            rest.select_nth_unstable_by(middle, |a, b| Cut::order(*a, *b));
            let (front, back) = rest.split_at_mut(middle);
            let mass: u64 = front.iter().map(|c| mass(exp_f32(-self.depth(c.logit)))).sum();
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

/// A share of at most 1 in units of 2^-40; below 1e-12 of the most probable token it is nothing.
#[inline]
fn mass(share: f32) -> u64 {
    // Adding 2^52 rounds to an integer and leaves it in the mantissa: unlike a cast, this becomes SIMD.
    const ROUNDER: f64 = 4_503_599_627_370_496.0;
    (f64::from(share * 1_099_511_627_776.0) + ROUNDER).to_bits() & 0x000f_ffff_ffff_ffff
}

/// 64 buckets per factor of e, down to e^-32; whatever lies deeper shares the last one.
#[inline]
fn bucket(depth: f32) -> u32 {
    // As in `mass`, with 2^23.
    const ROUNDER: f32 = 8_388_608.0;
    const LAST: f32 = (BUCKETS - 1) as f32;
    let at = depth * 64.0;
    let at = if at < LAST { at } else { LAST };
    (at + ROUNDER).to_bits() & 0x007f_ffff
}

const BUCKETS: usize = 2048;
