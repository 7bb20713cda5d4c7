//! Self-attention as all families have it: fused queries, keys and values, and an output matrix. What
//! differs is a bias, norms of the heads, the scale and the window.

use proto::LayerIndex;
use proto::manifest::Architecture;
use tch::Tensor;

use crate::error::EngineError;
use crate::ffi::TorchError;
use crate::kernels::attention::{HeadNorms, LayerAttention};
use crate::kernels::linear::Linear;
use crate::rows::StepRows;
use crate::span_weights::SpanWeights;

/// The attention of one layer.
#[derive(Debug)]
pub(super) struct SelfAttention {
    /// Queries, keys and values in one matrix.
    qkv: Linear,
    output: Linear,
    how: LayerAttention,
}

/// What a family's attention has besides its matrices.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extras {
    /// Biases of queries, keys and values.
    pub(super) bias: bool,
    /// Norms of the heads of queries and keys.
    pub(super) head_norms: bool,
}

impl SelfAttention {
    pub(super) fn load(
        weights: &SpanWeights<'_>,
        architecture: &Architecture,
        layer: LayerIndex,
        extras: Extras,
    ) -> Result<Self, EngineError> {
        let a = architecture;
        let hidden = u64::from(a.hidden);
        let [queries, keys] = [a.heads, a.kv_heads].map(|heads| u64::from(heads) * u64::from(a.head_dim));
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let rows = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let parts = |kind: &str| rows.map(|(part, rows)| (name(&format!("{part}.{kind}")), rows));
        let head_norm = |part: &str| weights.norm(&name(part), u64::from(a.head_dim));
        let how = LayerAttention {
            bias: if extras.bias { Some(weights.vectors(&parts("bias"))?) } else { None },
            norms: if extras.head_norms {
                let (queries, keys) = (head_norm("q_norm.weight")?, head_norm("k_norm.weight")?);
                Some(HeadNorms { queries, keys, eps: a.norm_eps })
            } else {
                None
            },
            ..LayerAttention::of(a, layer)
        };
        let [q, k, v] = &parts("weight");
        Ok(Self {
            qkv: weights.linear(&[(&q.0, q.1), (&k.0, k.1), (&v.0, v.1)], hidden)?,
            output: weights.linear(&[(&name("o_proj.weight"), hidden)], queries)?,
            how,
        })
    }

    /// Of normed rows `x [rows, hidden]`, likewise shaped.
    pub(super) fn forward(&self, x: &Tensor, rows: &mut StepRows<'_>) -> Result<Tensor, TorchError> {
        self.output.forward(&rows.attend(&mut self.qkv.forward(x)?, &self.how)?)
    }

    /// The same, added to `residual`.
    pub(super) fn forward_add(
        &self,
        x: &Tensor,
        residual: &Tensor,
        rows: &mut StepRows<'_>,
    ) -> Result<Tensor, TorchError> {
        self.output.forward_add(&rows.attend(&mut self.qkv.forward(x)?, &self.how)?, residual)
    }

    /// Bytes of its matrices.
    pub(super) fn bytes(&self) -> usize {
        self.qkv.bytes() + self.output.bytes()
    }
}
