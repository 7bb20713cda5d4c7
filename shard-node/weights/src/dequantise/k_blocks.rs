//! GGUF "K" blocks of 256 values: a scale (and a minimum) in f16, and small integers that divide it among groups of
//! 16 or 32 values. Layouts and formulas are those of `dequantize_row_q*_K` in `ggml-quants.c`; products and sums
//! are never fused.

use super::{Element, scale};

/// 16 bytes of scales (low nibble) and minima (high nibble), 64 bytes of 2-bit values, scale, minimum.
#[inline]
pub(super) fn q2_k<T: Element>(block: &[u8; 84], out: &mut [T; 256]) {
    let (scales, values) = (part::<16>(block, 0), part::<64>(block, 16));
    let (d, dmin) = (half(block, 80), half(block, 82));
    for (group, (out, packed)) in out.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (step, least) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
        // In each half of a block, 32 bytes hold four times 32 values.
        let bytes = part::<16>(values, 32 * (group / 8) + 16 * (group % 2));
        let shift = 2 * (group / 2 % 4);
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = T::from_finite_f32(step * (i32::from(*byte) >> shift & 3) as f32 - least);
        }
    }
}

/// 32 bytes of third bits, 64 bytes of 2-bit values, 12 bytes of 6-bit scales, scale. A third bit that is not set
/// takes 4 off.
#[inline]
pub(super) fn q3_k<T: Element>(block: &[u8; 110], out: &mut [T; 256]) {
    let (third, values, packed) = (part::<32>(block, 0), part::<64>(block, 32), part::<12>(block, 96));
    let d = half(block, 108);
    for (piece, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let bytes = part::<32>(values, 32 * piece);
        // The third bits of this half, as bits 0 to 3.
        let thirds = zip(third, third, |t, _| if piece == 0 { t } else { t >> 4 });
        let quarters = [
            zip(bytes, &thirds, |b, t| b & 3 | (t & 1) << 2),
            zip(bytes, &thirds, |b, t| b >> 2 & 3 | (t & 2) << 1),
            zip(bytes, &thirds, |b, t| b >> 4 & 3 | t & 4),
            zip(bytes, &thirds, |b, t| b >> 6 | (t & 8) >> 1),
        ];
        let groups = out.as_chunks_mut::<16>().0.iter_mut().zip(quarters.as_flattened().as_chunks::<16>().0);
        for (within, (out, q)) in groups.enumerate() {
            let group = 8 * piece + within;
            let low = packed[within] >> (4 * piece) & 15;
            let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
            let step = d * f32::from((low | high << 4) as i8 - 32);
            spread(q, out, |q| step * (q - 4.0));
        }
    }
}

/// Scale, minimum, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles.
#[inline]
pub(super) fn q4_k<T: Element>(block: &[u8; 144], out: &mut [T; 256]) {
    let groups = Groups::new(half(block, 0), half(block, 2), part(block, 4));
    let nibbles = part::<128>(block, 16);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (step, least) = groups.step_and_least(group);
        let (bytes, shift) = (part::<32>(nibbles, 32 * (group / 2)), 4 * (group % 2));
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = T::from_finite_f32(step * (i32::from(*byte) >> shift & 15) as f32 - least);
        }
    }
}

/// As `Q4_K`, with 32 bytes of fifth bits before the nibbles: bit `g` of byte `i` is that of value `i` of group `g`.
#[inline]
pub(super) fn q5_k<T: Element>(block: &[u8; 176], out: &mut [T; 256]) {
    let groups = Groups::new(half(block, 0), half(block, 2), part(block, 4));
    let (fifth, nibbles) = (part::<32>(block, 16), part::<128>(block, 48));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (step, least) = groups.step_and_least(group);
        let (bytes, shift) = (part::<32>(nibbles, 32 * (group / 2)), 4 * (group % 2));
        for ((out, byte), fifth) in out.iter_mut().zip(bytes).zip(fifth) {
            let q = (i32::from(*byte) >> shift & 15) | (i32::from(*fifth) >> group & 1) << 4;
            *out = T::from_finite_f32(step * q as f32 - least);
        }
    }
}

/// 128 bytes of nibbles, 64 bytes of the two bits above them, 16 signed scales, scale.
#[inline]
pub(super) fn q6_k<T: Element>(block: &[u8; 210], out: &mut [T; 256]) {
    let (nibbles, upper, scales) = (part::<128>(block, 0), part::<64>(block, 128), part::<16>(block, 192));
    let d = half(block, 208);
    for (piece, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        // In each half of the block: 64 low nibbles, then the 64 high ones of the same bytes.
        let (a, b) = (part::<32>(nibbles, 64 * piece), part::<32>(nibbles, 64 * piece + 32));
        let upper = part::<32>(upper, 32 * piece);
        let quarters = [
            zip(a, upper, |n, u| n & 15 | (u & 3) << 4),
            zip(b, upper, |n, u| n & 15 | (u & 0x0c) << 2),
            zip(a, upper, |n, u| n >> 4 | u & 0x30),
            zip(b, upper, |n, u| n >> 4 | (u & 0xc0) >> 2),
        ];
        let groups = out.as_chunks_mut::<16>().0.iter_mut().zip(quarters.as_flattened().as_chunks::<16>().0);
        for ((out, q), scale) in groups.zip(&scales[8 * piece..]) {
            let step = d * f32::from(*scale as i8);
            spread(q, out, |q| step * (q - 32.0));
        }
    }
}

/// Small integers, widened and turned into values.
#[inline]
fn spread<const N: usize, T: Element>(integers: &[u8; N], out: &mut [T; N], value: impl Fn(f32) -> f32) {
    for (out, q) in out.iter_mut().zip(integers) {
        *out = T::from_finite_f32(value(f32::from(*q)));
    }
}

/// Bytes put together lane by lane, sixteen at once in whatever vectors there are.
#[inline]
fn zip(a: &[u8; 32], b: &[u8; 32], join: impl Fn(u8, u8) -> u8) -> [u8; 32] {
    let mut joined = *a;
    for (joined, b) in joined.iter_mut().zip(b) {
        *joined = join(*joined, *b);
    }
    joined
}

/// Scales and minima of the eight groups of `Q4_K` and `Q5_K`.
struct Groups<'a> {
    d: f32,
    dmin: f32,
    packed: &'a [u8; 12],
}

impl<'a> Groups<'a> {
    #[inline]
    fn new(d: f32, dmin: f32, packed: &'a [u8; 12]) -> Self {
        Self { d, dmin, packed }
    }

    /// `get_scale_min_k4`: the first four groups have 6 whole bits each; the others 4 bits in the last bytes, and
    /// the upper two bits of the first ones.
    #[inline]
    fn step_and_least(&self, group: usize) -> (f32, f32) {
        let p = self.packed;
        let (scale, least) = if group < 4 {
            (p[group] & 63, p[group + 4] & 63)
        } else {
            (p[group + 4] & 15 | p[group - 4] >> 6 << 4, p[group + 4] >> 4 | p[group] >> 6 << 4)
        };
        (self.d * f32::from(scale), self.dmin * f32::from(least))
    }
}

/// `LEN` bytes of a block.
#[inline]
fn part<const LEN: usize>(block: &[u8], at: usize) -> &[u8; LEN] {
    block[at..].first_chunk().expect("the places are constants within the block")
}

/// The f16 at a place of a block.
#[inline]
fn half(block: &[u8], at: usize) -> f32 {
    scale(*part(block, at))
}
