//! Stored numbers to `f32` or bf16. Pure functions over byte slices, one block at a time, in plain
//! loops that the compiler vectorises. What they give equals the Python `gguf` package bit for bit.
//!
//! bf16 results are rounded to nearest, ties to even, from the exact `f32`.

mod finite;
mod k_blocks;
mod small_blocks;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use proto::tensor::Dtype;

/// Why bytes could not be converted.
#[derive(Debug, thiserror::Error, PartialEq)]
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
    /// A value is NaN or infinite.
    #[error("value {index} is {value}")]
    NotFinite {
        /// Which one, counted over all of the bytes.
        index: usize,
        /// What it is.
        value: f32,
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
pub trait Element: Copy + Default + finite::Finite {
    /// Rounds an `f32` (exact for `f32`).
    fn from_f32(value: f32) -> Self;
    /// [`from_f32`](Self::from_f32), faster, of what is no NaN: of one it may make any number.
    fn from_finite_f32(value: f32) -> Self;
    /// Takes a stored bf16, exactly.
    fn from_bf16_bits(bits: u16) -> Self;
    /// The number, exactly.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline]
    fn from_finite_f32(value: f32) -> Self {
        value
    }

    #[inline]
    fn from_bf16_bits(bits: u16) -> Self {
        Self::from_bits(u32::from(bits) << 16)
    }

    #[inline]
    fn to_f32(self) -> f32 {
        self
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
        // A NaN whose payload is in the lower half would become an infinity: keep it a quiet NaN.
        let quiet = (bits >> 16) | 0x40;
        if bits & 0x7fff_ffff > 0x7f80_0000 { Self(quiet as u16) } else { Self::from_finite_f32(value) }
    }

    #[inline]
    fn from_finite_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        // An arithmetic shift: SSE2 narrows signed lanes in one instruction, unsigned ones in three.
        Self((rounded.cast_signed() >> 16) as u16)
    }

    #[inline]
    fn from_bf16_bits(bits: u16) -> Self {
        Self(bits)
    }

    #[inline]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
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
        Dtype::Q4_0 => convert_blocks(bytes, out, small_blocks::q4_0),
        Dtype::Q4_1 => convert_blocks(bytes, out, small_blocks::q4_1),
        Dtype::Q5_0 => convert_blocks(bytes, out, small_blocks::q5_0),
        Dtype::Q5_1 => convert_blocks(bytes, out, small_blocks::q5_1),
        Dtype::Q8_0 => convert_blocks(bytes, out, small_blocks::q8_0),
        Dtype::Q2K => convert_blocks(bytes, out, k_blocks::q2_k),
        Dtype::Q3K => convert_blocks(bytes, out, k_blocks::q3_k),
        Dtype::Q4K => convert_blocks(bytes, out, k_blocks::q4_k),
        Dtype::Q5K => convert_blocks(bytes, out, k_blocks::q5_k),
        Dtype::Q6K => convert_blocks(bytes, out, k_blocks::q6_k),
    }
    Ok(())
}

/// [`convert`], and refuses NaN and infinities: one of them in a matrix spoils every token. What an `f32` too large
/// for bf16 becomes counts as one.
pub fn convert_finite<T: Element>(ty: Dtype, bytes: &[u8], out: &mut [T]) -> Result<(), DequantiseError> {
    let (block_bytes, block_values) = (ty.block_bytes() as usize, ty.block_elements() as usize);
    let blocks = (CHECKED_TOGETHER / block_values).max(1);
    let holds = bytes.len() / block_bytes * block_values;
    if !bytes.len().is_multiple_of(block_bytes) || holds != out.len() {
        return convert(ty, bytes, out);
    }
    let pieces = bytes.chunks(blocks * block_bytes).zip(out.chunks_mut(blocks * block_values));
    for (at, (bytes, out)) in pieces.enumerate() {
        // A value is finite if its block's f16 numbers are: nothing that they are multiplied by reaches 2^14.
        let wrong_block = first_bad_block(ty, bytes);
        convert(ty, bytes, out)?;
        let first = match wrong_block {
            Some(block) => Some(block * block_values),
            None if block_values > 1 || finite::all(out) => None,
            None => out.iter().position(|value| !value.to_f32().is_finite()),
        };
        if let Some(first) = first {
            let index = at * blocks * block_values + first;
            return Err(DequantiseError::NotFinite { index, value: out[first].to_f32() });
        }
    }
    Ok(())
}

/// The first block with a scale or minimum that is not finite; none of a plain type. For those who compute with blocks
/// as they are stored.
pub fn first_bad_block(ty: Dtype, bytes: &[u8]) -> Option<usize> {
    let places: &[usize] = match ty {
        Dtype::F32 | Dtype::F16 | Dtype::Bf16 => return None,
        Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0 => &[0],
        Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4K | Dtype::Q5K => &[0, 2],
        Dtype::Q2K => &[80, 82],
        Dtype::Q3K => &[108],
        Dtype::Q6K => &[208],
    };
    let bad = |block: &[u8], at: usize| block.get(at + 1).is_some_and(|high| high & 0x7c == 0x7c);
    bytes.chunks_exact(ty.block_bytes() as usize).position(|block| places.iter().any(|&at| bad(block, at)))
}

/// Values that are converted and then checked while they are in the first-level cache.
const CHECKED_TOGETHER: usize = 2048;

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
fn convert_blocks<const BYTES: usize, const VALUES: usize, T: Element>(
    bytes: &[u8],
    out: &mut [T],
    block: impl Fn(&[u8; BYTES], &mut [T; VALUES]),
) {
    for (stored, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<VALUES>().0) {
        block(stored, out);
    }
}

/// An f16 of a block's header.
#[inline]
fn scale(bytes: [u8; 2]) -> f32 {
    f16::from_bits(u16::from_le_bytes(bytes)).to_f32_const()
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
    fn one_value_that_is_not_finite_is_found_wherever_it_is() {
        let count = 3 * CHECKED_TOGETHER + 5;
        for (bits, bf16_too) in [(0x7fc0_0000, true), (0xff80_0000, true), (0x7f7f_ffff, false)] {
            for at in [0, 1, CHECKED_TOGETHER - 1, CHECKED_TOGETHER, count - 1] {
                let mut values = vec![f32::MIN_POSITIVE; count];
                values[at] = f32::from_bits(bits);
                let stored: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let mut wide = vec![0.0_f32; count];
                let mut narrow = vec![Bf16::default(); count];
                let found = |error| match error {
                    Err(DequantiseError::NotFinite { index, .. }) => index,
                    other => panic!("{at}: {other:?}"),
                };
                if bf16_too {
                    assert_eq!(found(convert_finite(Dtype::F32, &stored, &mut wide)), at);
                } else {
                    convert_finite(Dtype::F32, &stored, &mut wide).unwrap();
                    assert_eq!(wide, values);
                }
                assert_eq!(found(convert_finite(Dtype::F32, &stored, &mut narrow)), at);
            }
        }
    }

    #[test]
    fn a_block_with_a_scale_that_is_not_finite_is_found() {
        for ty in Dtype::ALL.into_iter().filter(|ty| ty.block_elements() > 1) {
            let (bytes, values) = (ty.block_bytes() as usize, ty.block_elements() as usize);
            let mut stored = vec![0x11_u8; 40 * bytes];
            let mut out = vec![0.0_f32; 40 * values];
            convert_finite(ty, &stored, &mut out).unwrap();
            let mut found = 0;
            for at in 0..bytes {
                stored[37 * bytes + at] = 0x7c;
                // The unchecked conversion says which bytes are scales: all of the block's values are spoilt.
                convert(ty, &stored, &mut out).unwrap();
                let spoilt = out[37 * values..38 * values].iter().filter(|value| !value.is_finite()).count();
                assert!(spoilt == 0 || spoilt == values, "{ty} {at}: {spoilt}");
                match convert_finite(ty, &stored, &mut out) {
                    Ok(()) => assert_eq!(spoilt, 0, "{ty} {at}"),
                    Err(error) => {
                        let expected = 37 * values;
                        assert!(
                            matches!(error, DequantiseError::NotFinite { index, .. } if index == expected),
                            "{ty}: {error}"
                        );
                        found += spoilt / values;
                    }
                }
                stored[37 * bytes + at] = 0x11;
            }
            assert!(found == 1 || found == 2, "{ty}: {found} numbers in f16");
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
