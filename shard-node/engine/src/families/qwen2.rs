//! Qwen 2 and 2.5: llama with biases on queries, keys and values (HF `modeling_qwen2.py`).

use proto::LayerIndex;
use proto::manifest::Architecture;

use super::DecoderLayer;
use super::attention::{Extras, SelfAttention};
use super::feed_forward::Dense;
use super::pre_norm::PreNormLayer;
use crate::error::EngineError;
use crate::kernels::rows::Gate;
use crate::span_weights::SpanWeights;

pub(super) fn load(
    weights: &SpanWeights<'_>,
    a: &Architecture,
    layer: LayerIndex,
) -> Result<Box<dyn DecoderLayer>, EngineError> {
    let extras = Extras { bias: true, ..Extras::default() };
    let attention = SelfAttention::load(weights, a, layer, extras)?;
    PreNormLayer::boxed(weights, a, layer, attention, Dense::load(weights, a, layer, Gate::Silu)?)
}
