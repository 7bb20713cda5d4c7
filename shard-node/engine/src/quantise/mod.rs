//! Weights to 8 and 4 bits, a row of a panel at a time. Pure; the layouts are those of `shim/panels.h`,
//! how panels multiply stands in `kernels/panels.rs`.

pub(crate) mod int4;
pub(crate) mod int8;

use std::ops::Range;

use half::f16;
use shard_node_weights::TensorError;

/// A matrix whose rows can be read one by one, on several threads.
pub(crate) trait MatrixRows: Sync {
    /// Rows.
    fn rows(&self) -> usize;
    /// Values of a row.
    fn columns(&self) -> usize;
    /// One row's values.
    fn values(&self, row: usize, out: &mut [f32]) -> Result<(), TensorError>;
    /// The same as blocks of 4 bits, if it is stored so.
    fn blocks(&self, row: usize) -> Option<FourBits<'_>>;
    /// These rows are not asked for again.
    fn release(&self, _rows: Range<usize>) {}
}

/// A row in one of GGUF's plain 4-bit types (`ggml-common.h`: `block_q4_0`, `block_q4_1`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum FourBits<'a> {
    /// f16 scale, 16 bytes of nibbles.
    Q4_0(&'a [[u8; 18]]),
    /// f16 scale, f16 minimum, 16 bytes of nibbles.
    Q4_1(&'a [[u8; 20]]),
}

impl FourBits<'_> {
    /// No scale and no minimum is infinite or NaN.
    pub(crate) fn is_finite(self) -> bool {
        let finite = |low: u8, high: u8| f16::from_le_bytes([low, high]).is_finite();
        match self {
            Self::Q4_0(blocks) => blocks.iter().all(|block| finite(block[0], block[1])),
            Self::Q4_1(blocks) => {
                blocks.iter().all(|block| finite(block[0], block[1]) && finite(block[2], block[3]))
            }
        }
    }
}

/// f32 values in memory.
#[derive(Debug)]
pub(crate) struct DenseRows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) columns: usize,
}

impl MatrixRows for DenseRows<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn values(&self, row: usize, out: &mut [f32]) -> Result<(), TensorError> {
        out.copy_from_slice(&self.values[row * self.columns..(row + 1) * self.columns]);
        Ok(())
    }

    fn blocks(&self, _row: usize) -> Option<FourBits<'_>> {
        None
    }
}
