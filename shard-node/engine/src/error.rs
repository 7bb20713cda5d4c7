//! Why the engine cannot load a shard. Each case names the thing and the cure.

use proto::span::SpanError;
use shard_node_stage::StageError;
use shard_node_weights::{ArchitectureError, OpenError, TensorError};

use crate::device::DeviceError;
use crate::ffi::TorchError;
use crate::memory::MemoryError;

/// Why a shard was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model's files do not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The model's metadata do not describe a decoder this version computes.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A family outside the table.
    #[error("models of family {family} are not supported; use one of: {known}")]
    Family {
        /// The model's family.
        family: String,
        /// All families of the table.
        known: String,
    },
    /// A family of experts whose metadata say nothing of them.
    #[error("the metadata of this {family} do not say how many experts it has; fetch the model again")]
    NoExperts {
        /// The model's family.
        family: String,
    },
    /// The span does not lie in the model.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// A tensor is missing, cut short, or of another type or shape.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A tensor is not the one the manifest names.
    #[error(transparent)]
    Verify(#[from] shard_node_weights::manifest::VerifyError),
    /// Heads wider than the kernels hold.
    #[error("heads of {dim} elements are not supported, at most {most}")]
    HeadDim {
        /// The model's.
        dim: u32,
        /// The most.
        most: i64,
    },
    /// A matrix that the int8 and int4 classes cannot multiply.
    #[error(
        "matrices of {width} columns are not supported in classes int8 and int4, 1 to {most} are; use bf16"
    )]
    Width {
        /// The model's.
        width: usize,
        /// The most.
        most: usize,
    },
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The loaded shard fails its first steps, with which the number of compute threads is measured.
    #[error("the loaded shard does not compute: {0}")]
    Threads(StageError),
    /// The shard does not fit the device.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Torch(#[from] TorchError),
}

impl From<tch::TchError> for EngineError {
    fn from(error: tch::TchError) -> Self {
        Self::Torch(error.into())
    }
}
