//! Experts as the second half of a layer. They are read one after the other: each one's file pages go back to the
//! system before the next one's are touched, so that no more than one lies in memory twice.

use proto::LayerIndex;
use proto::manifest::{Architecture, Experts};
use shard_node_weights::ExpertNames;
use tch::Tensor;

use super::feed_forward::FeedForward;
use crate::error::EngineError;
use crate::ffi::TorchError;
use crate::kernels::experts::{Expert, ExpertLayer, Routing};
use crate::span_weights::SpanWeights;

/// The layer's router and experts under the names of its family.
pub(super) fn load(
    weights: &SpanWeights<'_>,
    architecture: &Architecture,
    layer: LayerIndex,
) -> Result<ExpertLayer, EngineError> {
    let family = &architecture.family;
    let Experts { count, used, ffn, normalise } =
        architecture.experts.ok_or_else(|| EngineError::NoExperts { family: family.clone() })?;
    let names = ExpertNames::of(family);
    let (hidden, ffn, layer) = (u64::from(architecture.hidden), u64::from(ffn), layer.get());
    let router = weights.exact_linear(&names.router(layer), u64::from(count), hidden)?;
    let experts = (0..count).map(|expert| {
        let [gate, up, down] = names.matrices(layer, expert);
        Ok(Expert {
            gate_up: weights.linear(&[(&gate, ffn), (&up, ffn)], hidden)?,
            down: weights.linear(&[(&down, hidden)], ffn)?,
        })
    });
    Ok(ExpertLayer {
        router,
        experts: experts.collect::<Result<_, EngineError>>()?,
        routing: Routing { used: used as usize, normalise },
    })
}

impl FeedForward for ExpertLayer {
    fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, TorchError> {
        self.sum_add(x, residual)
    }

    fn bytes(&self) -> usize {
        self.matrix_bytes(self.experts.len())
    }

    fn row_bytes(&self) -> usize {
        self.matrix_bytes(self.routing.used)
    }
}
