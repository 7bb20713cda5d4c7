//! The tensors of one span, read from a checkpoint into the layout the stage computes with.
//!
//! Only what is asked for is read; each tensor's file pages go back to the system once its values
//! lie in a matrix of their own. Families ask by HF name and expected size; whatever the file lacks
//! or has otherwise is an error that names it.

mod checking;
mod fill;

use std::ops::Range;

use proto::LayerSpan;
use proto::manifest::{Architecture, Manifest};
use proto::tensor::Dtype;
use shard_node_weights::{Bf16, Checkpoint, StoredTensor, TensorError, manifest, norm_offset};
use tch::{Device, Kind, Tensor};

use crate::error::EngineError;
use crate::ffi::{self, Value};
use crate::kernels::linear::{Linear, LinearKind};
use crate::kernels::pairs::Pairs;
use crate::kernels::panels::{Bits, Panels};
use crate::quantise::{FourBits, MatrixRows};
pub(crate) use checking::Checking;

/// Reads the tensors of a span.
#[derive(Debug)]
pub(crate) struct SpanWeights<'a> {
    checkpoint: &'a Checkpoint,
    manifest: Option<&'a Manifest>,
    checking: Option<&'a Checking>,
    kind: LinearKind,
    device: Device,
    norm_offset: f32,
}

impl<'a> SpanWeights<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        architecture: &Architecture,
        manifest: Option<&'a Manifest>,
        checking: Option<&'a Checking>,
        kind: LinearKind,
        device: Device,
    ) -> Self {
        let norm_offset = norm_offset(architecture, checkpoint.container());
        Self { checkpoint, manifest, checking, kind, device, norm_offset }
    }

    /// The tensor, with the shape the architecture demands and the bytes the manifest names; where those are being
    /// checked by other threads, whoever loads waits for them at the end.
    fn checked(&self, name: &str, shape: &[u64]) -> Result<&'a StoredTensor, EngineError> {
        let tensor = self.checkpoint.require(name, shape)?;
        let elsewhere = self.checking.is_some_and(|checking| checking.includes(tensor));
        if let Some(manifest) = self.manifest.filter(|_| !elsewhere) {
            manifest::verify(manifest, self.checkpoint, name)?;
        }
        Ok(tensor)
    }

    /// The factors of a norm in f32, whichever way the file stores them: they are few, and kept exact in
    /// every class.
    pub(crate) fn norm(&self, name: &str, len: u64) -> Result<Tensor, EngineError> {
        self.f32_vectors(&[(name, len)], self.norm_offset)
    }

    /// Several vectors one after the other, in f32: biases, for the same reason.
    pub(crate) fn vectors(&self, parts: &[(String, u64)]) -> Result<Tensor, EngineError> {
        let parts: Vec<_> = parts.iter().map(|(name, len)| (&**name, *len)).collect();
        self.f32_vectors(&parts, 0.0)
    }

    fn f32_vectors(&self, parts: &[(&str, u64)], offset: f32) -> Result<Tensor, EngineError> {
        let tensors = parts
            .iter()
            .map(|&(name, len)| Ok((self.checked(name, &[len])?, len)))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let total: u64 = parts.iter().map(|&(_, len)| len).sum();
        let read = ffi::filled(&[total as i64], |mut values: &mut [f32]| {
            for (tensor, len) in tensors {
                let (part, rest) = values.split_at_mut(len as usize);
                self.checkpoint.rows_into(tensor, 0..len, part)?;
                for value in part {
                    *value += offset;
                }
                values = rest;
            }
            Ok::<_, TensorError>(())
        })??;
        for (name, _) in parts {
            self.checkpoint.release(name)?;
        }
        Ok(read.f_to_device(self.device)?)
    }

    /// Several matrices of the same width stacked into one, ready to multiply.
    pub(crate) fn linear(&self, parts: &[(&str, u64)], columns: u64) -> Result<Linear, EngineError> {
        if let Some(bits) = self.kind.bits() {
            let panels = self.panels(parts, columns, bits)?;
            return Ok(Linear::of_panels(panels, self.kind, self.device)?);
        }
        if self.kind == LinearKind::Pairs && Pairs::take(columns as usize) {
            return Ok(Linear::Pairs(self.pairs(parts, columns)?));
        }
        let stacked = match self.kind.weight_kind() {
            Kind::Float => self.stacked::<f32>(parts, columns)?,
            _ => self.stacked::<Bf16>(parts, columns)?,
        };
        let linear = Linear::new(stacked.f_to_device(self.device)?, self.kind)?;
        for (name, _) in parts {
            self.checkpoint.release(name)?;
        }
        Ok(linear)
    }

    /// A matrix that is multiplied in f32 as the exact class does, whatever the class: a router.
    pub(crate) fn exact_linear(&self, name: &str, rows: u64, columns: u64) -> Result<Linear, EngineError> {
        let weight = self.stacked::<f32>(&[(name, rows)], columns)?;
        self.checkpoint.release(name)?;
        Linear::new(weight.f_to_device(self.device)?, LinearKind::Exact)
    }

    /// A matrix as plain rows of the activations' type: the embedding.
    pub(crate) fn table(&self, name: &str, rows: u64, columns: u64) -> Result<Tensor, EngineError> {
        let parts = [(name, rows)];
        let table = match self.kind.activation_kind() {
            Kind::Float => self.stacked::<f32>(&parts, columns)?,
            _ => self.stacked::<Bf16>(&parts, columns)?,
        };
        self.checkpoint.release(name)?;
        Ok(table.f_to_device(self.device)?)
    }

    /// Stacked matrices packed as pairs, straight from the file: a band's pages go back as soon as it is packed, so
    /// that only what lies between two threads' hands is in memory twice.
    pub(crate) fn pairs(&self, parts: &[(&str, u64)], columns: u64) -> Result<Pairs, EngineError> {
        let source = self.rows_of(parts, columns)?;
        let size = (source.rows(), source.columns());
        let row = |index: usize, out: &mut [Bf16]| source.converted(index, out);
        let pairs = Pairs::pack(size, row, |packed| source.release(packed))??;
        for (name, _) in parts {
            self.checkpoint.release(name)?;
        }
        Ok(pairs)
    }

    /// The rows of stacked matrices.
    fn rows_of(&self, parts: &[(&str, u64)], columns: u64) -> Result<StackedRows<'a>, EngineError> {
        let tensors = parts
            .iter()
            .map(|&(name, rows)| self.checked(name, &[rows, columns]))
            .collect::<Result<Vec<_>, EngineError>>()?;
        Ok(StackedRows { checkpoint: self.checkpoint, tensors, columns: columns as usize })
    }

    /// The same, quantised.
    fn panels(&self, parts: &[(&str, u64)], columns: u64, bits: Bits) -> Result<Panels, EngineError> {
        let source = self.rows_of(parts, columns)?;
        let threads = tch::get_num_threads().max(1) as usize;
        let panels = Panels::pack(&source, bits, threads)?;
        for (name, _) in parts {
            self.checkpoint.release(name)?;
        }
        Ok(panels)
    }

    /// An embedding or a head, quantised: to 8 bits even in a class of 4, unless its file has no more than 4.
    pub(crate) fn panels_at_the_ends(
        &self,
        name: &str,
        rows: u64,
        columns: u64,
    ) -> Result<Panels, EngineError> {
        let stored = self.checkpoint.tensor(name)?.dtype;
        let bits = match self.kind.bits() {
            Some(Bits::Four) if matches!(stored, Dtype::Q4_0 | Dtype::Q4_1) => Bits::Four,
            _ => Bits::Eight,
        };
        self.panels(&[(name, rows)], columns, bits)
    }

    fn stacked<T: Value>(&self, parts: &[(&str, u64)], columns: u64) -> Result<Tensor, EngineError> {
        let tensors = parts
            .iter()
            .map(|&(name, rows)| Ok((self.checked(name, &[rows, columns])?, rows)))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let total: u64 = parts.iter().map(|&(_, rows)| rows).sum();
        let read = ffi::filled(&[total as i64, columns as i64], |values: &mut [T]| {
            fill::fill(self.checkpoint, &tensors, columns, values)
        });
        Ok(read??)
    }
}

/// Tensors of the same width, one below the other.
struct StackedRows<'a> {
    checkpoint: &'a Checkpoint,
    tensors: Vec<&'a StoredTensor>,
    columns: usize,
}

impl StackedRows<'_> {
    /// One row's values as they are computed with.
    fn converted<T: Value>(&self, row: usize, out: &mut [T]) -> Result<(), TensorError> {
        match self.place(row) {
            Some((tensor, row)) => self.checkpoint.rows_into(tensor, row..row + 1, out),
            None => Ok(()),
        }
    }

    /// The tensor that has this row, and its number there.
    fn place(&self, row: usize) -> Option<(&StoredTensor, u64)> {
        let mut row = row as u64;
        for tensor in &self.tensors {
            if row < tensor.rows() {
                return Some((tensor, row));
            }
            row -= tensor.rows();
        }
        None
    }
}

impl MatrixRows for StackedRows<'_> {
    fn rows(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.rows() as usize).sum()
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn values(&self, row: usize, out: &mut [f32]) -> Result<(), TensorError> {
        self.converted(row, out)
    }

    fn blocks(&self, row: usize) -> Option<FourBits<'_>> {
        let (tensor, row) = self.place(row)?;
        if !matches!(tensor.dtype, Dtype::Q4_0 | Dtype::Q4_1) {
            return None;
        }
        let stored = self.checkpoint.stored(tensor);
        let bytes = stored.len() / tensor.rows() as usize;
        let start = tensor.layout.stored_row(row) as usize * bytes;
        let row = stored.get(start..start + bytes)?;
        let blocks = match tensor.dtype {
            Dtype::Q4_0 => FourBits::Q4_0(row.as_chunks().0),
            _ => FourBits::Q4_1(row.as_chunks().0),
        };
        // Otherwise the row is read as values, which says what is wrong with it.
        blocks.is_finite().then_some(blocks)
    }

    /// Gives the pages back to the system.
    fn release(&self, rows: Range<usize>) {
        let mut begin = 0;
        for tensor in &self.tensors {
            let end = begin + tensor.rows();
            let (from, to) = (begin.max(rows.start as u64), end.min(rows.end as u64));
            if from < to {
                self.checkpoint.release_rows(tensor, from - begin..to - begin);
            }
            begin = end;
        }
    }
}

/// Bytes of all stored tensors of a span: what loading reads.
pub(crate) fn stored_bytes(
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    span: LayerSpan,
) -> Result<u64, TensorError> {
    let tensors = shard_node_weights::span_tensors(architecture, span);
    tensors.iter().map(|(name, shape)| Ok(checkpoint.require(name, shape)?.stored_bytes())).sum()
}
