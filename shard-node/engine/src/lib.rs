//! The only crate that links libtorch: kernels, families, the engine process.

pub mod ffi;
