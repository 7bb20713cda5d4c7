//! The rows of one step as a layer sees them: which belong to which session, at which position.
//!
//! Linears take all rows of a step at once; attention goes session by session.

use shard_node_stage::{KvSlot, StageError, StepGroup};
use tch::Tensor;

use crate::ffi::TorchError;
use crate::kernels::attention::{Heads, LayerAttention, Masks, Run, append, attend};
use crate::kernels::rotary::Rotary;
use crate::kv::KvStore;

/// One step's rows, and the layer it has come to.
#[derive(Debug)]
pub(crate) struct StepRows<'a> {
    runs: Vec<(KvSlot, Run)>,
    kv: &'a mut KvStore,
    rotary: &'a Rotary,
    heads: Heads,
    row_by_row: bool,
    /// Those of each run, made by the first layer that needs them.
    masks: Vec<Masks>,
    layer: usize,
}

impl<'a> StepRows<'a> {
    pub(crate) fn new(
        groups: &[StepGroup],
        kv: &'a mut KvStore,
        rotary: &'a Rotary,
        heads: Heads,
        row_by_row: bool,
    ) -> Self {
        let mut row = 0;
        let runs = groups.iter().map(|group| {
            let (rows, start) = (i64::from(group.rows), i64::from(group.start.get()));
            row += rows;
            (group.slot, Run { row: row - rows, rows, start })
        });
        let runs: Vec<_> = runs.collect();
        let masks = runs.iter().map(|_| Masks::default()).collect();
        Self { runs, kv, rotary, heads, row_by_row, masks, layer: 0 }
    }

    /// Goes on to the span's next layer.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Attention of fused `qkv [rows, width]`; gives `[rows, heads * dim]`. Writes the layer's cache.
    pub(crate) fn attend(&mut self, qkv: &mut Tensor, how: &LayerAttention) -> Result<Tensor, TorchError> {
        for &(slot, run) in &self.runs {
            let session = self.kv.session_mut(slot).map_err(|error| gone(&error))?;
            append(qkv, run, session.layer_mut(self.layer)?, self.rotary, self.heads, how)?;
        }
        let caches = self.runs.iter().map(|&(slot, run)| {
            let session = self.kv.session(slot).map_err(|error| gone(&error))?;
            Ok((run, session.layer(self.layer)?))
        });
        let caches = caches.collect::<Result<Vec<_>, TorchError>>()?;
        attend(qkv, &caches, self.heads, how, self.row_by_row, &mut self.masks)
    }
}

fn gone(error: &StageError) -> TorchError {
    TorchError(error.to_string().into())
}
