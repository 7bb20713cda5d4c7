//! How the numbers of a tensor are stored in a file: the readable types ([`Dtype`]) under the names of
//! both formats, and the names and sizes of the ones that are refused. It does not read any bytes.

use proto::tensor::Dtype;

/// The readable types, for messages that say what to convert a model to.
pub const READABLE: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K";

/// What a file's header says about the type of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// A type that can be read.
    Readable(Dtype),
    /// A known type that cannot be read here, with its block geometry, so that the header's
    /// sizes can still be checked.
    Unreadable {
        /// The type's usual name.
        name: &'static str,
        /// Values per block.
        block_values: u64,
        /// Bytes per block.
        block_bytes: u64,
    },
}

impl ElementType {
    /// The type's usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readable(ty) => ty.name(),
            Self::Unreadable { name, .. } => name,
        }
    }

    /// Bytes of a whole tensor of this shape (outermost dimension first); `None` when the
    /// innermost dimension is not a whole number of blocks or a product overflows.
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let (block_values, block_bytes) = match self {
            Self::Readable(ty) => (ty.block_elements(), ty.block_bytes()),
            Self::Unreadable { block_values, block_bytes, .. } => (block_values, block_bytes),
        };
        let (columns, outer) = match shape.split_last() {
            Some((&columns, outer)) => (columns, outer),
            None => (1, shape),
        };
        if !columns.is_multiple_of(block_values) {
            return None;
        }
        let row = (columns / block_values).checked_mul(block_bytes)?;
        outer.iter().try_fold(row, |size, &dim| size.checked_mul(dim))
    }

    /// The element type of a GGML type number, as in `ggml.h` (`enum ggml_type`).
    pub(crate) fn from_ggml(number: u32) -> Option<Self> {
        let unreadable =
            |name, block_values, block_bytes| Self::Unreadable { name, block_values, block_bytes };
        Some(match number {
            0 => Self::Readable(Dtype::F32),
            1 => Self::Readable(Dtype::F16),
            2 => Self::Readable(Dtype::Q4_0),
            3 => Self::Readable(Dtype::Q4_1),
            6 => Self::Readable(Dtype::Q5_0),
            7 => Self::Readable(Dtype::Q5_1),
            8 => Self::Readable(Dtype::Q8_0),
            10 => Self::Readable(Dtype::Q2K),
            11 => Self::Readable(Dtype::Q3K),
            12 => Self::Readable(Dtype::Q4K),
            13 => Self::Readable(Dtype::Q5K),
            14 => Self::Readable(Dtype::Q6K),
            30 => Self::Readable(Dtype::Bf16),
            9 => unreadable("Q8_1", 32, 40),
            15 => unreadable("Q8_K", 256, 292),
            16 => unreadable("IQ2_XXS", 256, 66),
            17 => unreadable("IQ2_XS", 256, 74),
            18 => unreadable("IQ3_XXS", 256, 98),
            19 => unreadable("IQ1_S", 256, 50),
            20 => unreadable("IQ4_NL", 32, 18),
            21 => unreadable("IQ3_S", 256, 110),
            22 => unreadable("IQ2_S", 256, 82),
            23 => unreadable("IQ4_XS", 256, 136),
            24 => unreadable("I8", 1, 1),
            25 => unreadable("I16", 1, 2),
            26 => unreadable("I32", 1, 4),
            27 => unreadable("I64", 1, 8),
            28 => unreadable("F64", 1, 8),
            29 => unreadable("IQ1_M", 256, 56),
            34 => unreadable("TQ1_0", 256, 54),
            35 => unreadable("TQ2_0", 256, 66),
            39 => unreadable("MXFP4", 32, 17),
            40 => unreadable("NVFP4", 64, 36),
            41 => unreadable("Q1_0", 128, 18),
            _ => return None,
        })
    }

    /// The element type of a safetensors `dtype` string.
    pub(crate) fn from_safetensors(dtype: &str) -> Option<Self> {
        let unreadable = |name, block_bytes| Self::Unreadable { name, block_values: 1, block_bytes };
        Some(match dtype {
            "F32" => Self::Readable(Dtype::F32),
            "F16" => Self::Readable(Dtype::F16),
            "BF16" => Self::Readable(Dtype::Bf16),
            "F64" => unreadable("F64", 8),
            "I64" => unreadable("I64", 8),
            "I32" => unreadable("I32", 4),
            "I16" => unreadable("I16", 2),
            "I8" => unreadable("I8", 1),
            "U64" => unreadable("U64", 8),
            "U32" => unreadable("U32", 4),
            "U16" => unreadable("U16", 2),
            "U8" => unreadable("U8", 1),
            "BOOL" => unreadable("BOOL", 1),
            "C64" => unreadable("C64", 8),
            "F8_E5M2" => unreadable("F8_E5M2", 1),
            "F8_E4M3" => unreadable("F8_E4M3", 1),
            "F8_E8M0" => unreadable("F8_E8M0", 1),
            "F8_E4M3FNUZ" => unreadable("F8_E4M3FNUZ", 1),
            "F8_E5M2FNUZ" => unreadable("F8_E5M2FNUZ", 1),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_every_readable_type() {
        let names: Vec<&str> = READABLE.split([',', ' ']).filter(|name| !["", "or"].contains(name)).collect();
        assert_eq!(names, Dtype::ALL.map(Dtype::name));
    }

    #[test]
    fn sizes_follow_the_blocks_and_refuse_partial_ones() {
        assert_eq!(ElementType::Readable(Dtype::Q8_0).tensor_bytes(&[49152, 576]), Some(30_081_024));
        assert_eq!(ElementType::Readable(Dtype::Q8_0).tensor_bytes(&[33]), None);
        assert_eq!(ElementType::Readable(Dtype::Q4K).tensor_bytes(&[3, 512]), Some(6 * 144));
        assert_eq!(ElementType::Readable(Dtype::Q4K).tensor_bytes(&[8, 576]), None, "rows are whole blocks");
        assert_eq!(ElementType::Readable(Dtype::F32).tensor_bytes(&[]), Some(4));
        assert_eq!(ElementType::Readable(Dtype::F32).tensor_bytes(&[u64::MAX, 2]), None);
    }
}
