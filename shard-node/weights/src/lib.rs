//! Model files without a tensor library: safetensors and GGUF readers, dequantisation, manifests.
//!
//! [`Checkpoint::open`] reads headers only; [`Checkpoint::rows`] gives values in HF order by canonical
//! (HF) name, whatever the container. Files are hostile input: every count and length is checked
//! before it is used. This crate never computes with weights and never fetches anything.

pub mod architecture;
pub mod checkpoint;
pub mod dequantise;
mod experts;
pub mod footprint;
pub mod gguf;
pub mod header;
pub mod inspect;
pub mod manifest;
mod mapping;
pub mod model_ref;
pub mod names;
pub mod safetensors;
pub mod stored;
#[cfg(test)]
mod tests;
pub mod text;

pub use architecture::{ArchitectureError, families, norm_offset, span_tensors};
pub use checkpoint::{Checkpoint, OpenError, RowLayout, StoredTensor, TensorError};
pub use dequantise::{Bf16, DequantiseError, Element};
pub use experts::ExpertNames;
pub use footprint::{Budget, Fit, Footprint};
pub use inspect::{Inspection, inspect};
pub use manifest::cache::ManifestCache;
pub use manifest::fit::{FitError, check_fits};
pub use manifest::{ComputeError, Described, VerifyError};
pub use mapping::MappedFile;
pub use model_ref::{BUILT_IN, BuiltIn, HubRef, ModelRef, ModelRefError};
pub use text::{TextError, TextParts};
