//! The layer that most families have: each half takes normed rows and is added to the residual stream.

use proto::LayerIndex;
use proto::manifest::Architecture;
use tch::Tensor;

use super::DecoderLayer;
use super::attention::SelfAttention;
use super::feed_forward::FeedForward;
use crate::error::EngineError;
use crate::ffi::TorchError;
use crate::kernels::rows::rms_norm;
use crate::rows::StepRows;
use crate::span_weights::SpanWeights;

/// Nine operators for a decode step on the CPU with a dense feed-forward, whatever extras the attention
/// has; the count is what small models wait for.
#[derive(Debug)]
pub(super) struct PreNormLayer<F> {
    eps: f64,
    attention_norm: Tensor,
    attention: SelfAttention,
    ffn_norm: Tensor,
    feed_forward: F,
}

impl<F: FeedForward + 'static> PreNormLayer<F> {
    /// Reads the norms and puts the layer together.
    pub(super) fn boxed(
        weights: &SpanWeights<'_>,
        architecture: &Architecture,
        layer: LayerIndex,
        attention: SelfAttention,
        feed_forward: F,
    ) -> Result<Box<dyn DecoderLayer>, EngineError> {
        let norm = |part: &str| {
            weights.norm(&format!("model.layers.{layer}.{part}.weight"), u64::from(architecture.hidden))
        };
        Ok(Box::new(Self {
            eps: architecture.norm_eps,
            attention_norm: norm("input_layernorm")?,
            attention,
            ffn_norm: norm("post_attention_layernorm")?,
            feed_forward,
        }))
    }
}

impl<F: FeedForward> DecoderLayer for PreNormLayer<F> {
    fn forward(&self, x: &Tensor, rows: &mut StepRows<'_>) -> Result<Tensor, TorchError> {
        let x = self.attention.forward_add(&rms_norm(x, &self.attention_norm, self.eps)?, x, rows)?;
        self.feed_forward.forward_add(&rms_norm(&x, &self.ffn_norm, self.eps)?, &x)
    }

    fn bytes(&self) -> usize {
        self.attention.bytes() + self.feed_forward.bytes()
    }

    fn row_bytes(&self) -> usize {
        self.attention.bytes() + self.feed_forward.row_bytes()
    }
}
