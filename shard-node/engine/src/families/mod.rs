//! The families of decoders this engine computes: one file each, and the table that finds them.
//!
//! A family owns what happens inside a layer. Embedding, final norm and head are alike in all of
//! them and belong to the stage.

mod llama;

use std::fmt::Debug;

use proto::LayerIndex;
use proto::manifest::Architecture;
use tch::Tensor;

use crate::error::EngineError;
use crate::ffi::TorchError;
use crate::rows::StepRows;
use crate::span_weights::SpanWeights;

/// One decoder layer with its weights.
pub(crate) trait DecoderLayer: Debug {
    /// The residual stream `[rows, hidden]` after the layer. `x` may borrow a frame's memory: it is only read.
    fn forward(&self, x: &Tensor, rows: &mut StepRows<'_>) -> Result<Tensor, TorchError>;

    /// Bytes of its matrices.
    fn bytes(&self) -> usize;
}

/// A row of the table of families.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    name: &'static str,
    load: LoadLayer,
}

type LoadLayer =
    fn(&SpanWeights<'_>, &Architecture, LayerIndex) -> Result<Box<dyn DecoderLayer>, EngineError>;

/// Mistral without sliding windows is llama; the weights crate refuses the windows.
const FAMILIES: [Family; 2] =
    [Family { name: "llama", load: llama::load }, Family { name: "mistral", load: llama::load }];

impl Family {
    /// The family of an architecture.
    pub(crate) fn of(architecture: &Architecture) -> Result<Self, EngineError> {
        FAMILIES.into_iter().find(|family| family.name == architecture.family).ok_or_else(|| {
            EngineError::Family {
                family: architecture.family.clone(),
                known: FAMILIES.map(|family| family.name).join(", "),
            }
        })
    }

    /// Reads one layer.
    pub(crate) fn load(
        self,
        weights: &SpanWeights<'_>,
        architecture: &Architecture,
        layer: LayerIndex,
    ) -> Result<Box<dyn DecoderLayer>, EngineError> {
        (self.load)(weights, architecture, layer)
    }
}
