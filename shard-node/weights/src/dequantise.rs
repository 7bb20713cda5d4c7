//! Stored numbers to `f32` or bf16. Pure functions over byte slices, one block at a time, in plain
//! loops that the compiler vectorises. What they give equals the Python `gguf` package bit for bit.
//!
//! bf16 results are rounded to nearest, ties to even, from the exact `f32`.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use proto::tensor::Dtype;

/// Why bytes could not be converted; both cases are mistakes of the caller or a wrong shape.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DequantiseError {
    /// The bytes are not a whole number of blocks.
    #[error("{bytes} bytes are not a whole number of {ty} blocks of {block} bytes")]
    PartialBlock {
        /// The stored type.
        ty: Dtype,
        /// Bytes given.
        bytes: usize,
        /// Bytes per block.
        block: usize,
    },
    /// The output has another length than the bytes hold values.
    #[error("{ty} bytes hold {holds} values, the output has room for {room}")]
    WrongLength {
        /// The stored type.
        ty: Dtype,
        /// Values in the bytes.
        holds: usize,
        /// Length of the output.
        room: usize,
    },
}

/// A number type that stored values are converted to.
pub trait Element: Copy + Default + sealed::Sealed {
    /// Rounds an `f32` (exact for `f32`).
    fn from_f32(value: f32) -> Self;
    /// Takes a stored bf16, exactly.
    fn from_bf16_bits(bits: u16) -> Self;
}

impl Element for f32 {
    #[inline]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline]
    fn from_bf16_bits(bits: u16) -> Self {
        Self::from_bits(u32::from(bits) << 16)
    }
}

/// The bits of a bf16 number, as they go into a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Element for Bf16 {
    #[inline]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A NaN whose payload is in the lower half would become an infinity: keep it a quiet NaN.
        let quiet = (bits >> 16) | 0x40;
        Self(if bits & 0x7fff_ffff > 0x7f80_0000 { quiet as u16 } else { rounded as u16 })
    }

    #[inline]
    fn from_bf16_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// Converts all of `bytes`, stored as `ty`, into `out`.
pub fn convert<T: Element>(ty: Dtype, bytes: &[u8], out: &mut [T]) -> Result<(), DequantiseError> {
    let block = ty.block_bytes() as usize;
    if !bytes.len().is_multiple_of(block) {
        return Err(DequantiseError::PartialBlock { ty, bytes: bytes.len(), block });
    }
    let holds = bytes.len() / block * ty.block_elements() as usize;
    if holds != out.len() {
        return Err(DequantiseError::WrongLength { ty, holds, room: out.len() });
    }
    match ty {
        Dtype::F32 => {
            for (stored, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
                *out = T::from_f32(f32::from_le_bytes(*stored));
            }
        }
        Dtype::F16 => convert_f16(bytes, out),
        Dtype::Bf16 => {
            for (stored, out) in bytes.as_chunks::<2>().0.iter().zip(out) {
                *out = T::from_bf16_bits(u16::from_le_bytes(*stored));
            }
        }
        Dtype::Q4_0 => convert_blocks(bytes, out, q4_0),
        Dtype::Q4_1 => convert_blocks(bytes, out, q4_1),
        Dtype::Q8_0 => convert_blocks(bytes, out, q8_0),
    }
    Ok(())
}

/// [`convert`] into a new vector.
pub fn to_vec<T: Element>(ty: Dtype, bytes: &[u8]) -> Result<Vec<T>, DequantiseError> {
    let mut out = vec![T::default(); bytes.len() / ty.block_bytes() as usize * ty.block_elements() as usize];
    convert(ty, bytes, &mut out)?;
    Ok(out)
}

fn convert_f16<T: Element>(bytes: &[u8], out: &mut [T]) {
    // `half` converts slices with the CPU's own instructions where it has them; 512 values at a time
    // stay in the first-level cache.
    let mut bits = [0_u16; 512];
    let mut wide = [0_f32; 512];
    for (stored, out) in bytes.chunks(1024).zip(out.chunks_mut(512)) {
        let count = out.len();
        for (bits, stored) in bits.iter_mut().zip(stored.as_chunks::<2>().0) {
            *bits = u16::from_le_bytes(*stored);
        }
        bits[..count].reinterpret_cast::<f16>().convert_to_f32_slice(&mut wide[..count]);
        for (out, wide) in out.iter_mut().zip(&wide) {
            *out = T::from_f32(*wide);
        }
    }
}

#[inline]
fn convert_blocks<const BYTES: usize, T: Element>(
    bytes: &[u8],
    out: &mut [T],
    block: impl Fn(&[u8; BYTES], &mut [T; 32]),
) {
    for (stored, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        block(stored, out);
    }
}

#[inline]
fn scale(low: u8, high: u8) -> f32 {
    f16::from_bits(u16::from_le_bytes([low, high])).to_f32_const()
}

/// `dequantize_row_q4_0` in ggml-quants.c.
#[inline]
fn q4_0<T: Element>(block: &[u8; 18], out: &mut [T; 32]) {
    let [d0, d1, nibbles @ ..] = block;
    let d = scale(*d0, *d1);
    unpack(nibbles, out, |q| d * (q - 8) as f32);
}

/// `dequantize_row_q4_1` in ggml-quants.c; a product and a sum, never fused.
#[inline]
fn q4_1<T: Element>(block: &[u8; 20], out: &mut [T; 32]) {
    let [d0, d1, m0, m1, nibbles @ ..] = block;
    let (d, m) = (scale(*d0, *d1), scale(*m0, *m1));
    unpack(nibbles, out, |q| d * q as f32 + m);
}

/// `dequantize_row_q8_0` in ggml-quants.c.
#[inline]
fn q8_0<T: Element>(block: &[u8; 34], out: &mut [T; 32]) {
    let [d0, d1, values @ ..] = block;
    let d = scale(*d0, *d1);
    for (out, q) in out.iter_mut().zip(values) {
        *out = T::from_f32(d * f32::from(*q as i8));
    }
}

/// The 32 nibbles of a block: all low ones are values 0..16, all high ones 16..32.
#[inline]
fn unpack<T: Element>(nibbles: &[u8; 16], out: &mut [T; 32], value: impl Fn(i32) -> f32) {
    // Two loops: measured twice as fast as one loop over both halves, or as unpacking bytes first.
    let (low, high) = out.split_at_mut(16);
    for (low, byte) in low.iter_mut().zip(nibbles) {
        *low = T::from_f32(value(i32::from(byte & 0x0f)));
    }
    for (high, byte) in high.iter_mut().zip(nibbles) {
        *high = T::from_f32(value(i32::from(byte >> 4)));
    }
}

mod sealed {
    /// Only this module's element types exist.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for super::Bf16 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even_and_keeps_nan() {
        let cases = [
            (1.0_f32.to_bits(), 0x3f80),
            (0x3f80_8000, 0x3f80), // a tie goes to the even neighbour
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0x7f7f_ffff, 0x7f80), // rounds up to infinity
            (0x7f80_0001, 0x7fc0),
            (0xff80_0001, 0xffc0),
            (0x8000_0000, 0x8000),
        ];
        for (bits, expected) in cases {
            assert_eq!(Bf16::from_f32(f32::from_bits(bits)).0, expected, "{bits:08x}");
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let mut out = [0.0_f32; 32];
        assert!(matches!(
            convert(Dtype::Q4_1, &[0; 21], &mut out),
            Err(DequantiseError::PartialBlock { .. })
        ));
        assert!(matches!(
            convert(Dtype::Q4_1, &[0; 40], &mut out),
            Err(DequantiseError::WrongLength { holds: 64, room: 32, .. })
        ));
    }
}
