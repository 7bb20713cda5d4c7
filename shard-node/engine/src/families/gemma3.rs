//! Gemma 3's text decoder: norms before and after each half of a layer, norms of the heads, a gated
//! GELU, windows and rotary bases by layer (HF `modeling_gemma3.py`). Embeddings are scaled by the stage.

use proto::LayerIndex;
use proto::manifest::Architecture;
use tch::Tensor;

use super::DecoderLayer;
use super::attention::{Extras, SelfAttention};
use super::feed_forward::{Dense, FeedForward};
use crate::error::EngineError;
use crate::ffi::TorchError;
use crate::kernels::rows::{Gate, rms_norm, rms_norm_add};
use crate::rows::StepRows;
use crate::span_weights::SpanWeights;

/// Eleven operators for a decode step on the CPU.
#[derive(Debug)]
struct Gemma3Layer {
    eps: f64,
    before_attention: Tensor,
    attention: SelfAttention,
    after_attention: Tensor,
    before_ffn: Tensor,
    feed_forward: Dense,
    after_ffn: Tensor,
}

pub(super) fn load(
    weights: &SpanWeights<'_>,
    a: &Architecture,
    layer: LayerIndex,
) -> Result<Box<dyn DecoderLayer>, EngineError> {
    let norm = |part: &str| weights.norm(&format!("model.layers.{layer}.{part}.weight"), u64::from(a.hidden));
    let extras = Extras { head_norms: true, ..Extras::default() };
    Ok(Box::new(Gemma3Layer {
        eps: a.norm_eps,
        before_attention: norm("input_layernorm")?,
        attention: SelfAttention::load(weights, a, layer, extras)?,
        after_attention: norm("post_attention_layernorm")?,
        before_ffn: norm("pre_feedforward_layernorm")?,
        feed_forward: Dense::load(weights, a, layer, Gate::GeluTanh)?,
        after_ffn: norm("post_feedforward_layernorm")?,
    }))
}

impl DecoderLayer for Gemma3Layer {
    fn forward(&self, x: &Tensor, rows: &mut StepRows<'_>) -> Result<Tensor, TorchError> {
        let attended = self.attention.forward(&rms_norm(x, &self.before_attention, self.eps)?, rows)?;
        let x = rms_norm_add(&attended, &self.after_attention, self.eps, x)?;
        let fed = self.feed_forward.forward(&rms_norm(&x, &self.before_ffn, self.eps)?)?;
        rms_norm_add(&fed, &self.after_ffn, self.eps, &x)
    }

    fn bytes(&self) -> usize {
        self.attention.bytes() + self.feed_forward.bytes()
    }
}
