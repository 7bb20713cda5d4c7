//! Qwen 3 with experts for feed-forward networks (HF `modeling_qwen3_moe.py`).

use proto::LayerIndex;
use proto::manifest::Architecture;

use super::attention::{Extras, SelfAttention};
use super::pre_norm::PreNormLayer;
use super::{DecoderLayer, experts};
use crate::error::EngineError;
use crate::span_weights::SpanWeights;

pub(super) fn load(
    weights: &SpanWeights<'_>,
    a: &Architecture,
    layer: LayerIndex,
) -> Result<Box<dyn DecoderLayer>, EngineError> {
    let extras = Extras { head_norms: true, ..Extras::default() };
    let attention = SelfAttention::load(weights, a, layer, extras)?;
    PreNormLayer::boxed(weights, a, layer, attention, experts::load(weights, a, layer)?)
}
