//! The only crate that links libtorch: kernels, families, the engine process.

fn main() {}
