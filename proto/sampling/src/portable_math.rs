//! Exponential and logarithm from plain IEEE additions, multiplications and divisions.
//!
//! The standard library's `exp` and `ln` differ by platform in the last bit, which would make a sampled token
//! depend on the machine. These use only operations that IEEE 754 rounds exactly (the compiler never fuses
//! them), so they give the same bits everywhere, and the `f32` one turns into SIMD by itself.

/// `e^x` for `x <= 0`, with a relative error below 2e-7; inputs below [`EXP_FLOOR`] (also `-inf`) count as
/// the floor, so the result is never zero or subnormal.
///
/// Polynomial and split of ln 2: Cephes `expf.c`.
#[inline]
pub fn exp_f32(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer and leaves that integer in the low mantissa bits.
    const ROUNDER: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > EXP_FLOOR { x } else { EXP_FLOOR };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    // The integer's low bits, moved into the exponent: a multiplication by 2^n.
    let exponent = shifted.to_bits().wrapping_shl(23);
    f32::from_bits(e.to_bits().wrapping_add(exponent))
}

/// [`exp_f32`] of each element. Not inlined, so that it stays one straight run of SIMD.
#[inline(never)]
pub(crate) fn exp_block(block: &mut [f32; LANES]) {
    for x in block {
        *x = exp_f32(*x);
    }
}

/// Natural logarithm of a positive, normal, finite number, within 1 unit in the last place.
///
/// Reduction and polynomial: FreeBSD msun `e_log.c`.
#[inline]
pub fn ln_f64(x: f64) -> f64 {
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_0000_0000;
    const ONE_BITS: u64 = 0x3ff0_0000_0000_0000;
    debug_assert!(x.is_normal() && x > 0.0);
    // Move the mantissa into [sqrt(1/2), sqrt(2)) and count the powers of two.
    let offset = x.to_bits().wrapping_add(ONE_BITS - SQRT_HALF_BITS);
    let k = ((offset >> 52) as i64 - 1023) as f64;
    let m = f64::from_bits((offset & 0x000f_ffff_ffff_ffff) + SQRT_HALF_BITS);
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let even =
        w * (3.999_999_999_940_942e-1 + w * (2.222_219_843_214_978_4e-1 + w * 1.531_383_769_920_937_3e-1));
    let odd = z
        * (6.666_666_666_666_735e-1
            + w * (2.857_142_874_366_239e-1
                + w * (1.818_357_216_161_805e-1 + w * 1.479_819_860_511_658_6e-1)));
    let half_square = 0.5 * f * f;
    k * LN2_HIGH - ((half_square - (s * (half_square + (even + odd)) + k * LN2_LOW)) - f)
}

/// Elements per block: four SSE registers or one AVX-512 register, enough independent chains to hide the latency
/// of an addition.
pub(crate) const LANES: usize = 16;

/// Below this, [`exp_f32`] no longer falls: `e^-87` is the last power of e that is a normal `f32`.
pub const EXP_FLOOR: f32 = -87.0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exp_is_close_to_the_reference(x in -87.0f32..=0.0) {
            let want = f64::from(x).exp();
            let got = f64::from(exp_f32(x));
            prop_assert!(((got - want) / want).abs() < 2e-7, "{x}: {got} {want}");
        }

        #[test]
        fn ln_is_within_two_units_of_the_reference(x in prop_oneof![1e-300f64..1e300, 1e-16f64..2.0, 0.5f64..1.5]) {
            let (got, want) = (ln_f64(x), x.ln());
            prop_assert!((got - want).abs() <= want.abs() * 4.5e-16 + f64::MIN_POSITIVE, "{x}: {got} {want}");
        }
    }

    #[test]
    fn fixed_points_are_exact() {
        assert_eq!(exp_f32(0.0), 1.0);
        assert_eq!(ln_f64(1.0), 0.0);
        assert!(exp_f32(f32::NEG_INFINITY).is_normal());
    }

    /// Bits that must never move: a change here changes sampled tokens between versions.
    #[test]
    fn golden_bits() {
        assert_eq!(exp_f32(-1.0).to_bits(), 0x3ebc_5ab2);
        assert_eq!(ln_f64(0.1).to_bits(), (-2.302_585_092_994_045_5_f64).to_bits());
    }
}
