//! The rows of one step as a layer sees them: which belong to which session, at which position.
//!
//! Linears take all rows of a step at once; attention goes session by session.

use shard_node_stage::{KvSlot, StageError, StepGroup};
use tch::Tensor;

use crate::ffi::TorchError;
use crate::kernels::attention::{Angles, Heads, LayerAttention, Masks, Run, append, attend, store, turn};
use crate::kernels::by_shim;
use crate::kernels::rotary::{Rotary, RotaryBase};
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
    /// For the library's operators: those of the whole base and of the local one, made when first needed.
    angles: [Option<Angles>; 2],
    layer: usize,
}

impl<'a> StepRows<'a> {
    /// At layer `layer` of the groups' part.
    pub(crate) fn new(
        groups: &[StepGroup],
        layer: usize,
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
        Self { runs, kv, rotary, heads, row_by_row, masks, angles: [None, None], layer }
    }

    /// Goes on to the part's next layer.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Attention of fused `qkv [rows, width]`; gives `[rows, heads * dim]`. Writes the layer's cache.
    pub(crate) fn attend(&mut self, qkv: &mut Tensor, how: &LayerAttention) -> Result<Tensor, TorchError> {
        let by_library = !by_shim(qkv.device());
        if by_library {
            self.turn(qkv, how)?;
        }
        for &(slot, run) in &self.runs {
            let session = self.kv.session_mut(slot).map_err(|error| gone(&error))?;
            let cache = session.layer_mut(self.layer)?;
            if by_library {
                store(qkv, run, cache, self.heads)?;
            } else {
                append(qkv, run, cache, self.rotary, self.heads, how)?;
            }
        }
        let caches = self.runs.iter().map(|&(slot, run)| {
            let session = self.kv.session(slot).map_err(|error| gone(&error))?;
            Ok((run, session.layer(self.layer)?))
        });
        let caches = caches.collect::<Result<Vec<_>, TorchError>>()?;
        attend(qkv, &caches, self.heads, how, self.row_by_row, &mut self.masks)
    }

    fn turn(&mut self, qkv: &Tensor, how: &LayerAttention) -> Result<(), TorchError> {
        let place = match how.rotary {
            RotaryBase::Whole => &mut self.angles[0],
            RotaryBase::Local => &mut self.angles[1],
        };
        let angles = if let Some(angles) = place {
            angles
        } else {
            let runs: Vec<Run> = self.runs.iter().map(|&(_, run)| run).collect();
            place.insert(Angles::of(self.rotary, how.rotary, &runs)?)
        };
        turn(qkv, angles, self.heads, how)
    }
}

fn gone(error: &StageError) -> TorchError {
    TorchError(error.to_string().into())
}
