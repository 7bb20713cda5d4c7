//! Matrices of the int8 and int4 classes: packed, multiplied, looked up, widened.
//!
//! A row's product has the same bits whatever rows come with it. Layouts: `shim/panels.h`.

use tch::{Kind, Tensor};

use crate::error::EngineError;
use crate::ffi::{self, GROUP, MAX_WIDTH, PANEL_ROWS, PanelFormat, PanelLevel, PanelMatrix, TorchError};
use crate::quantise::{FourBits, MatrixRows, int4, int8};

/// Bits of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    /// A scale for each row.
    Eight,
    /// A scale and a minimum for each group of 32.
    Four,
}

/// A quantised matrix `[out, width]`.
#[derive(Debug)]
pub(crate) struct Panels {
    bytes: Tensor,
    /// f32 `[out]`, padded to whole panels; int8 only.
    scales: Option<Tensor>,
    out: usize,
    width: usize,
    format: PanelFormat,
}

impl Panels {
    /// Packs a matrix on the CPU, its panels dealt out to `threads`.
    pub(crate) fn pack(source: &impl MatrixRows, bits: Bits, threads: usize) -> Result<Self, EngineError> {
        let (out, width) = (source.rows(), source.columns());
        if width == 0 || width > MAX_WIDTH || out == 0 {
            return Err(EngineError::Width { width, most: MAX_WIDTH });
        }
        let format = match bits {
            Bits::Eight => PanelFormat::Int8,
            Bits::Four if (0..out).all(|row| matches!(source.blocks(row), Some(FourBits::Q4_0(_)))) => {
                PanelFormat::Int4
            }
            Bits::Four => PanelFormat::Int4Min,
        };
        let padded = width.next_multiple_of(GROUP);
        let (count, panel_bytes) = (out.div_ceil(PANEL_ROWS), format.panel_bytes(padded));
        let mut scales = vec![0.0; count * PANEL_ROWS];
        let bytes = ffi::filled_bytes(count * panel_bytes, |bytes| {
            // Whole panels for each thread.
            let share = count.div_ceil(threads.max(1));
            let shares = bytes.chunks_mut(share * panel_bytes).zip(scales.chunks_mut(share * PANEL_ROWS));
            std::thread::scope(|scope| {
                let workers = shares.enumerate().map(|(index, (bytes, scales))| {
                    scope.spawn(move || pack_share(source, format, index * share, bytes, scales))
                });
                // Collected first, so that all are under way before the first is waited for.
                let workers = workers.collect::<Vec<_>>();
                workers.into_iter().try_for_each(|worker| match worker.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
            })
        })??;
        let scales = match format {
            PanelFormat::Int8 => Some(Tensor::f_from_slice(&scales)?),
            _ => None,
        };
        Ok(Self { bytes, scales, out, width, format })
    }

    /// `x [rows, width]` times the matrix, plus `residual [rows, out]`, as `kind`. CPU only.
    pub(crate) fn multiply(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        kind: Kind,
        level: PanelLevel,
    ) -> Result<Tensor, TorchError> {
        ffi::panels(x, self.matrix(level), residual, kind)
    }

    /// The same in f32, with `x` rounded to twice as many bits: logits. CPU only.
    pub(crate) fn multiply_fine(&self, x: &Tensor, level: PanelLevel) -> Result<Tensor, TorchError> {
        ffi::panels_fine(x, self.matrix(level))
    }

    fn matrix(&self, level: PanelLevel) -> PanelMatrix<'_> {
        let &Self { out, width, format, .. } = self;
        PanelMatrix { panels: &self.bytes, scales: self.scales.as_ref(), out, width, format, level }
    }

    /// The values of a row. CPU only.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) -> Result<(), TorchError> {
        let missing = || TorchError("a row that the matrix does not have".into());
        let bytes = ffi::contiguous_bytes(&self.bytes).ok_or_else(missing)?;
        let padded = self.width.next_multiple_of(GROUP);
        let panel_bytes = self.format.panel_bytes(padded);
        let (panel, lane) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let panel = bytes.get(panel * panel_bytes..(panel + 1) * panel_bytes).ok_or_else(missing)?;
        if row >= self.out || out.len() != self.width {
            return Err(missing());
        }
        if let Some(scales) = &self.scales {
            let scales = ffi::contiguous_f32(scales).ok_or_else(missing)?;
            int8::unpack(panel, lane, *scales.get(row).ok_or_else(missing)?, out);
        } else {
            int4::unpack(panel, lane, self.format, out);
        }
        Ok(())
    }

    /// What the panels hold, in rows, for other layouts. CPU only.
    pub(crate) fn integers(&self) -> Result<Integers, TorchError> {
        let padded = self.width.next_multiple_of(GROUP);
        let (panel_bytes, groups) = (self.format.panel_bytes(padded) as i64, (padded / GROUP) as i64);
        let (out, lanes) = (self.out as i64, PANEL_ROWS as i64);
        let count = self.out.div_ceil(PANEL_ROWS) as i64;
        let bytes = self.bytes.f_view([count, panel_bytes])?;
        if let Some(scales) = &self.scales {
            let lanes_last = bytes.f_view([count, -1, lanes, 4])?.f_permute([0, 2, 1, 3])?;
            let rows = lanes_last.f_reshape([count * lanes, padded as i64])?.f_narrow(0, 0, out)?;
            // Bytes are stored with 128 added; as signed ones, turning the highest bit takes it off again.
            let values = rows.f_narrow(1, 0, self.width as i64)?.f_bitwise_xor(128)?.f_contiguous()?;
            return Ok(Integers::Eight {
                values: values.f_view_dtype(Kind::Int8)?,
                scales: scales.f_narrow(0, 0, out)?,
            });
        }
        let nibbles = (PANEL_ROWS * GROUP / 2) as i64;
        let bytes = bytes.f_view([count, groups, -1])?;
        let packed = bytes.f_narrow(2, 0, nibbles)?.f_reshape([count, groups, 4, lanes, 4])?;
        let (low, high) = (packed.f_bitwise_and(15)?, packed.f_bitwise_right_shift_tensor_scalar(4)?);
        let values = Tensor::f_stack(&[low, high], 2)?.f_permute([0, 4, 1, 2, 3, 5])?;
        let values = values.f_reshape([count * lanes, groups, GROUP as i64])?.f_narrow(0, 0, out)?;
        let kinds = if self.format == PanelFormat::Int4Min { 2 } else { 1 };
        let halves = bytes.f_narrow(2, nibbles, kinds * lanes * 2)?.f_contiguous()?;
        let halves = halves.f_view_dtype(Kind::Half)?.f_view([count, groups, kinds, lanes])?;
        let halves = halves.f_permute([0, 3, 1, 2])?.f_reshape([count * lanes, groups, kinds])?;
        let halves = halves.f_narrow(0, 0, out)?;
        let scales = halves.f_narrow(2, 0, 1)?.f_contiguous()?;
        let minima = match kinds {
            2 => halves.f_narrow(2, 1, 1)?.f_contiguous()?,
            _ => scales.f_mul_scalar(-8.0)?,
        };
        Ok(Integers::Four { nibbles: values.f_contiguous()?, scales, minima })
    }

    /// Rows.
    pub(crate) fn out(&self) -> usize {
        self.out
    }

    /// Columns.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Bytes that a product reads.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.numel() + self.scales.as_ref().map_or(0, |scales| 4 * scales.numel())
    }
}

/// A matrix as integers and what they are multiplied by.
#[derive(Debug)]
pub(crate) enum Integers {
    /// int8 `[out, width]`; f32 `[out]`.
    Eight { values: Tensor, scales: Tensor },
    /// 0 to 15 in bytes `[out, groups, 32]`; f16 `[out, groups, 1]`: `value = scale * nibble + minimum`.
    Four { nibbles: Tensor, scales: Tensor, minima: Tensor },
}

fn pack_share(
    source: &impl MatrixRows,
    format: PanelFormat,
    first_panel: usize,
    bytes: &mut [u8],
    scales: &mut [f32],
) -> Result<(), EngineError> {
    let columns = source.columns();
    let padded = columns.next_multiple_of(GROUP);
    let mut values = vec![0.0; PANEL_ROWS * columns];
    let band = (BAND_VALUES / values.len()).max(1);
    let mut kept = first_panel * PANEL_ROWS;
    let end = source.rows().min(kept + scales.len());
    let panels = bytes.chunks_mut(format.panel_bytes(padded)).zip(scales.chunks_mut(PANEL_ROWS));
    for (index, (panel, scales)) in panels.enumerate() {
        let first = (first_panel + index) * PANEL_ROWS;
        let rows = first..source.rows().min(first + PANEL_ROWS);
        let blocks = |row| source.blocks(row).filter(|_| format != PanelFormat::Int8);
        if rows.clone().any(|row| blocks(row).is_none()) {
            // A matrix may be stacked of several: rows of blocks stay zeros here.
            values.fill(0.0);
            for (row, values) in rows.clone().zip(values.chunks_exact_mut(columns)) {
                if blocks(row).is_none() {
                    source.values(row, values)?;
                }
            }
            ffi::pack_panel(&values, format, panel, scales)?;
        }
        for row in rows {
            if let Some(blocks) = blocks(row) {
                int4::pack_blocks(blocks, panel, row - first, format);
            }
        }
        if index % band == band - 1 {
            source.release(kept..end.min(first + PANEL_ROWS));
            kept = end.min(first + PANEL_ROWS);
        }
    }
    source.release(kept..end);
    Ok(())
}

/// What a thread packs before it gives source pages back, which else are in memory beside what is packed of them.
const BAND_VALUES: usize = 1 << 19;

#[cfg(test)]
mod tests;
