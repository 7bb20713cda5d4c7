//! Counter-based Gumbel noise: a number per (seed, position, token), with no state between draws.
//!
//! BLAKE3 turns (seed, position) into a key; `SplitMix64` turns (key, token) into uniform bits. A token's
//! noise therefore depends on no other token, on no draw before it, and on no vocabulary size.

use crate::portable_math::{LANES, ln_f64};

/// The noise of one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GumbelNoise {
    key: u64,
}

impl GumbelNoise {
    /// The noise at `position` under `seed`.
    pub fn new(seed: u64, position: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&seed.to_le_bytes());
        hasher.update(&position.to_le_bytes());
        let hash = *hasher.finalize().as_bytes();
        Self { key: u64::from_le_bytes(std::array::from_fn(|i| hash[i])) }
    }

    /// Standard Gumbel noise of `token`, `-ln(-ln u)` with `u` uniform in (0, 1); from -3.6 to 36.7.
    pub fn gumbel(self, token: u32) -> f64 {
        -ln_f64(-ln_f64(self.uniform(token)))
    }

    /// A uniform number in (0, 1): odd multiples of 2^-53, so neither end is reached and `1 - u` is exact.
    #[inline]
    pub(crate) fn uniform(self, token: u32) -> f64 {
        const STEP: f64 = 1.0 / 9_007_199_254_740_992.0;
        (((self.bits(token) >> 12) * 2 + 1) as f64) * STEP
    }

    /// Cheap lower bounds of `1 - u` for tokens from `first` on, none more than 2^-24 below.
    #[inline(never)]
    pub(crate) fn complements_at_least(self, first: u32, bounds: &mut [f32; LANES]) {
        const STEP: f32 = 1.0 / 16_777_216.0;
        let mut state = self.state(first);
        for bound in bounds {
            *bound = ((!finalise(state) >> 40) as i32) as f32 * STEP;
            state = state.wrapping_add(GOLDEN);
        }
    }

    #[inline]
    fn bits(self, token: u32) -> u64 {
        finalise(self.state(token))
    }

    #[inline]
    fn state(self, token: u32) -> u64 {
        self.key.wrapping_add(u64::from(token).wrapping_add(1).wrapping_mul(GOLDEN))
    }
}

/// With [`GOLDEN`] as step this is `SplitMix64` (Steele, Lea and Flood 2014), started from a state that BLAKE3 made.
#[inline]
fn finalise(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Part of the protocol: another context would make another token out of the same seed.
const CONTEXT: &str = "layerlane 2026 sampling gumbel noise v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_numbers_fill_the_unit_interval_evenly() {
        const BINS: usize = 64;
        for (seed, position) in [(0, 0), (0, 1), (1, 0), (u64::MAX, u32::MAX)] {
            let noise = GumbelNoise::new(seed, position);
            let mut bins = [0u32; BINS];
            for token in 0..64_000 {
                let u = noise.uniform(token);
                assert!(u > 0.0 && u < 1.0);
                let mut bounds = [0.0; LANES];
                noise.complements_at_least(token, &mut bounds);
                let bound = f64::from(bounds[0]);
                assert!(bound <= 1.0 - u && bound > 1.0 - u - 1.0 / 16_777_216.0);
                bins[(u * BINS as f64) as usize] += 1;
            }
            let chi: f64 = bins.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
            // 63 degrees of freedom: mean 63, deviation 11.2.
            assert!((20.0..120.0).contains(&chi), "seed {seed} position {position}: {chi}");
        }
    }

    #[test]
    fn noise_of_neighbouring_positions_and_seeds_is_unrelated() {
        let series = |seed, position| {
            let noise = GumbelNoise::new(seed, position);
            (0..20_000).map(|t| noise.uniform(t) - 0.5).collect::<Vec<_>>()
        };
        let base = series(5, 10);
        for other in [series(5, 11), series(6, 10), series(10, 5)] {
            let dot: f64 = base.iter().zip(&other).map(|(a, b)| a * b).sum::<f64>() * 12.0 / 20_000.0;
            assert!(dot.abs() < 0.04, "correlation {dot}");
        }
        let shifted: f64 = base.windows(2).map(|w| w[0] * w[1]).sum::<f64>() * 12.0 / 20_000.0;
        assert!(shifted.abs() < 0.04, "correlation of neighbours {shifted}");
    }

    /// A change here changes sampled tokens between versions.
    #[test]
    fn golden_noise() {
        let noise = GumbelNoise::new(42, 7);
        let bits = [0, 1, 49_151].map(|t| noise.uniform(t).to_bits());
        assert_eq!(bits, GOLDEN_UNIFORM, "{bits:#x?}");
        assert!((noise.gumbel(0) + (-noise.uniform(0).ln()).ln()).abs() < 1e-12);
    }

    const GOLDEN_UNIFORM: [u64; 3] = [0x3fc8_6e5c_d1c8_f7d4, 0x3fe2_e3e3_eaaf_c831, 0x3fd7_f5ae_b9b8_753a];
}
