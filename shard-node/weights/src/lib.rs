//! Model files without a tensor library: safetensors and GGUF readers, dequantisation, manifests.
//!
//! [`Checkpoint::open`] reads headers only; [`Checkpoint::rows`] gives values in HF order by canonical
//! (HF) name, whatever the container. Files are hostile input: every count and length is checked
//! before it is used. This crate never computes with weights and never fetches anything.

pub mod architecture;
pub mod checkpoint;
pub mod dequantise;
pub mod gguf;
pub mod header;
mod mapping;
pub mod names;
pub mod safetensors;
pub mod stored;
#[cfg(test)]
mod tests;

pub use architecture::{ArchitectureError, span_tensors};
pub use checkpoint::{Checkpoint, OpenError, RowLayout, StoredTensor, TensorError};
pub use dequantise::{Bf16, DequantiseError, Element};
pub use mapping::MappedFile;
