//! Llama and what computes like it: pre-norm, rotary attention with grouped keys, gated `SiLU`
//! (Touvron et al. 2023, <https://arxiv.org/abs/2302.13971>; HF `modeling_llama.py`).

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
    let attention = SelfAttention::load(weights, a, layer, Extras::default())?;
    PreNormLayer::boxed(weights, a, layer, attention, Dense::load(weights, a, layer, Gate::Silu)?)
}
