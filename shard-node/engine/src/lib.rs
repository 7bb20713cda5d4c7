//! The only crate that links libtorch: kernels, families, the engine process.
//!
//! [`loader`] turns a checkpoint on disk into a [`Stage`](shard_node_stage::Stage) of one span.
//! Nothing outside this crate knows what a tensor library is; nothing here knows the network.

mod device;
mod ends;
mod engine;
mod error;
mod families;
mod ffi;
mod kernels;
mod kv;
mod loader;
pub mod measure;
mod memory;
mod numerics;
mod quantise;
mod rows;
mod span_weights;
mod stage;
mod threads;

pub use device::{DeviceError, device_memory};
pub use engine::LibtorchEngine;
pub use error::EngineError;
pub use ffi::{DeviceMemory, TorchError};
pub use loader::{EngineOptions, LoadProgress, decode_bytes, load, loader};
pub use memory::{Bytes, MemoryError, weight_bytes};
pub use shard_node::engine::DeviceChoice;
