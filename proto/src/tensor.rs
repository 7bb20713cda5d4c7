//! Element types of weights and activations.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How a stored tensor's elements are laid out. Block formats are those of GGUF (ggml).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of 32: f16 scale, 16 bytes of nibbles; value = scale * (nibble - 8).
    Q4_0,
    /// Blocks of 32: f16 scale, f16 minimum, 16 bytes of nibbles; value = scale * nibble + minimum.
    Q4_1,
    /// Blocks of 32: f16 scale, 32 fifth bits, 16 bytes of nibbles; value = scale * (number - 16).
    Q5_0,
    /// Blocks of 32: f16 scale, f16 minimum, 32 fifth bits, 16 bytes of nibbles; value = scale * number + minimum.
    Q5_1,
    /// Blocks of 32: f16 scale, 32 signed bytes.
    Q8_0,
    /// Blocks of 256 in 16 groups, each with 4 bits of scale and of minimum; 2 bits a value.
    Q2K,
    /// Blocks of 256 in 16 groups with 6 bits of scale; 3 bits a value.
    Q3K,
    /// Blocks of 256 in 8 groups, each with 6 bits of scale and of minimum; 4 bits a value.
    Q4K,
    /// As `Q4K`, with 5 bits a value.
    Q5K,
    /// Blocks of 256 in 16 groups with 8 bits of scale; 6 bits a value.
    Q6K,
}

impl Dtype {
    /// Every type, plain ones first.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements of one block; 1 for plain types.
    pub const fn block_elements(self) -> u64 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a tensor of this shape; `None` if a row is not whole blocks or the size overflows.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let elements = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))?;
        let row = shape.last().copied().unwrap_or(1);
        if row % self.block_elements() != 0 {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The name people know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a stage computes. A route never mixes classes.
///
/// How weights are held and how keys and values are kept both change a model's answers, so both are in the class:
/// [`weights`](Self::weights) and [`kv`](Self::kv) take it apart.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum NumericsClass {
    /// f32, one compute thread, results independent of batching, chunking and sharding, bit for bit.
    Exact,
    /// bf16 weights and activations, prepacked.
    Bf16,
    /// 8-bit weights, a scale for each output row; activations rounded to 8 bits, a scale for each 32 of a row.
    Int8,
    /// 4-bit weights, a scale and a minimum for each 32; activations rounded to 8 bits, a scale for each 32.
    Int4,
    /// As [`Bf16`](Self::Bf16), with keys and values in 8 bits.
    Bf16Kv8,
    /// As [`Int8`](Self::Int8), with keys and values in 8 bits.
    Int8Kv8,
    /// As [`Int4`](Self::Int4), with keys and values in 8 bits.
    Int4Kv8,
}

/// How the matrices of a numerics class are held and multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WeightFormat {
    /// f32, one compute thread.
    Exact,
    /// bf16.
    Bf16,
    /// 8 bits.
    Int8,
    /// 4 bits.
    Int4,
}

/// How keys and values of a numerics class are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KvFormat {
    /// As the exact class computes them.
    F32,
    /// As the other classes compute them.
    Bf16,
    /// 8 bits, and an f32 scale for each head of a position: half of the memory and of the reads.
    Int8,
}

impl KvFormat {
    /// Bytes of the key, or of the value, of one position in one head of `dim` elements.
    pub const fn head_bytes(self, dim: u32) -> u64 {
        let dim = dim as u64;
        match self {
            Self::F32 => 4 * dim,
            Self::Bf16 => 2 * dim,
            Self::Int8 => dim + 4,
        }
    }
}

impl NumericsClass {
    /// All classes: where two would serve a request equally fast, the one that comes first.
    pub const ALL: [Self; 7] =
        [Self::Bf16, Self::Int8, Self::Int4, Self::Bf16Kv8, Self::Int8Kv8, Self::Int4Kv8, Self::Exact];

    /// How its matrices are held.
    pub const fn weights(self) -> WeightFormat {
        match self {
            Self::Exact => WeightFormat::Exact,
            Self::Bf16 | Self::Bf16Kv8 => WeightFormat::Bf16,
            Self::Int8 | Self::Int8Kv8 => WeightFormat::Int8,
            Self::Int4 | Self::Int4Kv8 => WeightFormat::Int4,
        }
    }

    /// How its keys and values are kept.
    pub const fn kv(self) -> KvFormat {
        match self {
            Self::Exact => KvFormat::F32,
            Self::Bf16 | Self::Int8 | Self::Int4 => KvFormat::Bf16,
            Self::Bf16Kv8 | Self::Int8Kv8 | Self::Int4Kv8 => KvFormat::Int8,
        }
    }

    /// Element type of activations on the wire.
    pub const fn wire_dtype(self) -> WireDtype {
        match self.weights() {
            WeightFormat::Exact => WireDtype::F32,
            WeightFormat::Bf16 | WeightFormat::Int8 | WeightFormat::Int4 => WireDtype::Bf16,
        }
    }

    /// The name in options and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Bf16Kv8 => "bf16-kv8",
            Self::Int8Kv8 => "int8-kv8",
            Self::Int4Kv8 => "int4-kv8",
        }
    }
}

impl std::fmt::Display for NumericsClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A numerics class that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a numerics class: use exact, bf16, int8 or int4, or bf16-kv8, int8-kv8 or int4-kv8 for KV in 8 bits"
)]
pub struct UnknownClass(String);

impl std::str::FromStr for NumericsClass {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        let named = Self::ALL.into_iter().find(|class| class.name() == text);
        named.ok_or_else(|| UnknownClass(text.chars().take(40).collect()))
    }
}

/// Element type of activations on the wire; little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum WireDtype {
    /// 32-bit float.
    F32 = 1,
    /// bfloat16.
    Bf16 = 2,
}

impl WireDtype {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Whether all elements are numbers: neither NaN nor infinite.
    pub fn all_finite(self, elements: &[u8]) -> bool {
        // Without an early end, so that it is computed many at a time: rows are good.
        let infinite = match self {
            Self::F32 => elements.as_chunks().0.iter().fold(false, |any, &element| {
                any | (u32::from_le_bytes(element) & F32_EXPONENT == F32_EXPONENT)
            }),
            Self::Bf16 => elements.as_chunks().0.iter().fold(false, |any, &element| {
                any | (u16::from_le_bytes(element) & BF16_EXPONENT == BF16_EXPONENT)
            }),
        };
        !infinite
    }

    /// The type with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::F32),
            2 => Some(Self::Bf16),
            _ => None,
        }
    }
}

/// All ones in NaN and the infinities alone (IEEE 754).
const F32_EXPONENT: u32 = 0x7f80_0000;
const BF16_EXPONENT: u16 = 0x7f80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_found_wherever_it_stands() {
        let good: [f32; 5] = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE / 2.0, -1.5];
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..=good.len() {
                let mut values = good.to_vec();
                let f32_bytes =
                    |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
                // A bf16 is an f32's upper half.
                let bf16_bytes = |values: &[f32]| {
                    values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect::<Vec<_>>()
                };
                assert!(WireDtype::F32.all_finite(&f32_bytes(&values)));
                assert!(WireDtype::Bf16.all_finite(&bf16_bytes(&values)));
                values.insert(at, bad);
                assert!(!WireDtype::F32.all_finite(&f32_bytes(&values)), "{bad} at {at}");
                assert!(!WireDtype::Bf16.all_finite(&bf16_bytes(&values)), "{bad} at {at}");
            }
        }
    }

    #[test]
    fn classes_keep_their_names_and_numbers_on_the_wire() {
        let by_number = [
            NumericsClass::Exact,
            NumericsClass::Bf16,
            NumericsClass::Int8,
            NumericsClass::Int4,
            NumericsClass::Bf16Kv8,
            NumericsClass::Int8Kv8,
            NumericsClass::Int4Kv8,
        ];
        assert_eq!(by_number.len(), NumericsClass::ALL.len());
        for (number, class) in by_number.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
            assert_eq!(class.name().parse(), Ok(class));
            assert_eq!(crate::codec::encode(&class), [number as u8, 0, 0, 0]);
            assert!(NumericsClass::ALL.contains(&class));
        }
    }
    #[test]
    fn a_class_is_its_weights_and_its_kv() {
        let mut seen = std::collections::HashSet::new();
        for class in NumericsClass::ALL {
            assert!(seen.insert((class.weights(), class.kv())), "{class} is another class by another name");
            let kv8 = class.kv() == KvFormat::Int8;
            assert_eq!(class.name().ends_with("-kv8"), kv8);
        }
        assert_eq!(
            [KvFormat::F32, KvFormat::Bf16, KvFormat::Int8].map(|kv| kv.head_bytes(64)),
            [256, 128, 68]
        );
    }
}
