//! The operators a decoder layer is made of.
//!
//! On the CPU the small ones are the shim's row kernels; on other devices the library's own
//! operators do the same. A file here knows tensors and sizes, never a model.

pub(crate) mod attention;
pub(crate) mod linear;
pub(crate) mod panels;
pub(crate) mod rotary;
pub(crate) mod rows;
