//! Mixtral: mistral, whose feed-forward networks are experts (Jiang et al. 2024, <https://arxiv.org/abs/2401.04088>;
//! HF `modeling_mixtral.py`).

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
    let attention = SelfAttention::load(weights, a, layer, Extras::default())?;
    PreNormLayer::boxed(weights, a, layer, attention, experts::load(weights, a, layer)?)
}
