//! What a layer does after its attention: a gated feed-forward network (Shazeer 2020,
//! <https://arxiv.org/abs/2002.05202>). A family with experts puts its own behind [`FeedForward`].

use std::fmt::Debug;

use proto::LayerIndex;
use proto::manifest::Architecture;
use tch::Tensor;

use crate::error::EngineError;
use crate::ffi::TorchError;
use crate::kernels::linear::Linear;
use crate::kernels::rows::{Gate, gated};
use crate::span_weights::SpanWeights;

/// The second half of a layer.
pub(super) trait FeedForward: Debug {
    /// Of normed rows `x [rows, hidden]`, added to `residual`, likewise shaped.
    fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, TorchError>;

    /// Bytes of its matrices.
    fn bytes(&self) -> usize;

    /// Those that one row reads.
    fn row_bytes(&self) -> usize {
        self.bytes()
    }
}

/// One network for all rows.
#[derive(Debug)]
pub(super) struct Dense {
    gate: Gate,
    /// Gate and up in one matrix.
    gate_up: Linear,
    down: Linear,
}

impl Dense {
    pub(super) fn load(
        weights: &SpanWeights<'_>,
        architecture: &Architecture,
        layer: LayerIndex,
        gate: Gate,
    ) -> Result<Self, EngineError> {
        let [hidden, ffn] = [architecture.hidden, architecture.ffn].map(u64::from);
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}_proj.weight");
        Ok(Self {
            gate,
            gate_up: weights.linear(&[(&name("gate"), ffn), (&name("up"), ffn)], hidden)?,
            down: weights.linear(&[(&name("down"), hidden)], ffn)?,
        })
    }

    /// Of normed rows `x [rows, hidden]`, likewise shaped.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        self.down.forward(&gated(&self.gate_up.forward(x)?, self.gate)?)
    }
}

impl FeedForward for Dense {
    fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, TorchError> {
        self.down.forward_add(&gated(&self.gate_up.forward(x)?, self.gate)?, residual)
    }

    fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }
}
