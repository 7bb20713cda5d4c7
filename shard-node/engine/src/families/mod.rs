//! The families of decoders this engine computes: one file each, and the table that finds them.
//!
//! A family owns what happens inside a layer, put together from parts that several share:
//! [`attention`], [`feed_forward`], [`experts`], [`pre_norm`]. Embedding, final norm and head belong to the stage;
//! what model files say of a family belongs to the weights crate.

mod attention;
mod experts;
mod feed_forward;
mod gemma3;
mod llama;
mod mixtral;
mod pre_norm;
mod qwen2;
mod qwen3;
mod qwen3_moe;

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

    /// Those that one row reads: all but the experts that it does not choose.
    fn row_bytes(&self) -> usize {
        self.bytes()
    }
}

/// A row of the table of families.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    /// As in [`Architecture::family`].
    name: &'static str,
    load: LoadLayer,
    /// Embeddings are multiplied by the root of the hidden width.
    scales_embedding: bool,
}

type LoadLayer =
    fn(&SpanWeights<'_>, &Architecture, LayerIndex) -> Result<Box<dyn DecoderLayer>, EngineError>;

/// All families. The window of a mistral is in its [`Architecture`], so it is a llama here.
const FAMILIES: [Family; 7] = [
    Family { name: "llama", load: llama::load, scales_embedding: false },
    Family { name: "mistral", load: llama::load, scales_embedding: false },
    Family { name: "qwen2", load: qwen2::load, scales_embedding: false },
    Family { name: "qwen3", load: qwen3::load, scales_embedding: false },
    Family { name: "gemma3", load: gemma3::load, scales_embedding: true },
    Family { name: "mixtral", load: mixtral::load, scales_embedding: false },
    Family { name: "qwen3_moe", load: qwen3_moe::load, scales_embedding: false },
];

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

    /// What embeddings are multiplied by, if anything.
    pub(crate) fn embedding_scale(self, architecture: &Architecture) -> Option<f64> {
        self.scales_embedding.then(|| f64::from(architecture.hidden).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_whose_files_are_read_is_computed() {
        let computed = FAMILIES.map(|family| family.name);
        assert_eq!(shard_node_weights::families().collect::<Vec<_>>(), computed);
    }
}
