//! The rows of one step as a layer sees them: which belong to which session, at which position.
//!
//! Linears take all rows of a step at once; attention goes session by session.

use shard_node_stage::StepGroup;
use tch::Tensor;

use crate::ffi::TorchError;
use crate::kernels::attention::{Heads, attend};
use crate::kernels::rotary::Rotary;
use crate::kv::KvStore;

/// One step's rows, and the layer it has come to.
#[derive(Debug)]
pub(crate) struct StepRows<'a> {
    groups: &'a [StepGroup],
    kv: &'a mut KvStore,
    rotary: &'a Rotary,
    heads: Heads,
    row_by_row: bool,
    /// One mask per group, made by the first layer.
    masks: Vec<Option<Tensor>>,
    layer: usize,
}

impl<'a> StepRows<'a> {
    pub(crate) fn new(
        groups: &'a [StepGroup],
        kv: &'a mut KvStore,
        rotary: &'a Rotary,
        heads: Heads,
        row_by_row: bool,
    ) -> Self {
        let masks = groups.iter().map(|_| None).collect();
        Self { groups, kv, rotary, heads, row_by_row, masks, layer: 0 }
    }

    /// Goes on to the span's next layer.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Attention of fused `qkv [rows, width]`; gives `[rows, heads * dim]`. Writes the layer's cache.
    pub(crate) fn attend(&mut self, qkv: &mut Tensor) -> Result<Tensor, TorchError> {
        if let [group] = self.groups {
            return self.attend_group(0, group, qkv);
        }
        let (rows, _) = qkv.size2()?;
        let out = Tensor::f_empty([rows, self.heads.queries * self.heads.dim], (qkv.kind(), qkv.device()))?;
        let mut first = 0;
        for (index, group) in self.groups.iter().enumerate() {
            let rows = i64::from(group.rows);
            let seen = self.attend_group(index, group, &mut qkv.f_narrow(0, first, rows)?)?;
            out.f_narrow(0, first, rows)?.f_copy_(&seen)?;
            first += rows;
        }
        Ok(out)
    }

    fn attend_group(
        &mut self,
        index: usize,
        group: &StepGroup,
        qkv: &mut Tensor,
    ) -> Result<Tensor, TorchError> {
        let session =
            self.kv.session_mut(group.slot).map_err(|error| TorchError(error.to_string().into()))?;
        let cache = session.layer(self.layer)?;
        let start = i64::from(group.start.get());
        attend(qkv, cache, self.rotary, self.heads, start, self.row_by_row, &mut self.masks[index])
    }
}
