//! GGUF blocks of 32 values: one scale, or a scale and a minimum. Layouts and formulas are those of
//! `dequantize_row_*` in `ggml-quants.c`; products and sums are never fused.

use super::{Element, scale};

#[inline]
pub(super) fn q4_0<T: Element>(block: &[u8; 18], out: &mut [T; 32]) {
    let [d0, d1, nibbles @ ..] = block;
    let d = scale([*d0, *d1]);
    unpack(nibbles, out, |q| d * (q - 8) as f32);
}

#[inline]
pub(super) fn q4_1<T: Element>(block: &[u8; 20], out: &mut [T; 32]) {
    let [d0, d1, m0, m1, nibbles @ ..] = block;
    let (d, m) = (scale([*d0, *d1]), scale([*m0, *m1]));
    unpack(nibbles, out, |q| d * q as f32 + m);
}

#[inline]
pub(super) fn q5_0<T: Element>(block: &[u8; 22], out: &mut [T; 32]) {
    let [d0, d1, h0, h1, h2, h3, nibbles @ ..] = block;
    let d = scale([*d0, *d1]);
    unpack_five([*h0, *h1, *h2, *h3], nibbles, out, |q| d * (q - 16) as f32);
}

#[inline]
pub(super) fn q5_1<T: Element>(block: &[u8; 24], out: &mut [T; 32]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, nibbles @ ..] = block;
    let (d, m) = (scale([*d0, *d1]), scale([*m0, *m1]));
    unpack_five([*h0, *h1, *h2, *h3], nibbles, out, |q| d * q as f32 + m);
}

#[inline]
pub(super) fn q8_0<T: Element>(block: &[u8; 34], out: &mut [T; 32]) {
    let [d0, d1, values @ ..] = block;
    let d = scale([*d0, *d1]);
    for (out, q) in out.iter_mut().zip(values) {
        *out = T::from_finite_f32(d * f32::from(*q as i8));
    }
}

/// The 32 nibbles of a block: all low ones are values 0..16, all high ones 16..32.
#[inline]
fn unpack<T: Element>(nibbles: &[u8; 16], out: &mut [T; 32], value: impl Fn(i32) -> f32) {
    // Two loops: measured twice as fast as one loop over both halves, or as unpacking bytes first.
    let (low, high) = out.split_at_mut(16);
    for (low, byte) in low.iter_mut().zip(nibbles) {
        *low = T::from_finite_f32(value(i32::from(byte & 0x0f)));
    }
    for (high, byte) in high.iter_mut().zip(nibbles) {
        *high = T::from_finite_f32(value(i32::from(byte >> 4)));
    }
}

/// As [`unpack`], with bit `i` of `fifth` on top of value `i`.
#[inline]
fn unpack_five<T: Element>(
    fifth: [u8; 4],
    nibbles: &[u8; 16],
    out: &mut [T; 32],
    value: impl Fn(i32) -> f32,
) {
    let fifth = u32::from_le_bytes(fifth);
    let (low, high) = out.split_at_mut(16);
    for (i, (low, byte)) in low.iter_mut().zip(nibbles).enumerate() {
        *low = T::from_finite_f32(value(i32::from(byte & 0x0f) | bit(fifth, i)));
    }
    for (i, (high, byte)) in high.iter_mut().zip(nibbles).enumerate() {
        *high = T::from_finite_f32(value(i32::from(byte >> 4) | bit(fifth, i + 16)));
    }
}

/// 16 where bit `i` is set. A mask and a comparison, since baseline x86-64 can't shift lanes by different counts.
#[inline]
fn bit(fifth: u32, i: usize) -> i32 {
    if fifth & (1 << i) == 0 { 0 } else { 16 }
}
