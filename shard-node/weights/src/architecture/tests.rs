//! Tests of reading architectures.
