//! Blocks of any type: the first byte chooses it. Nothing but a wrong length or a value that is not finite is an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::tensor::Dtype;
use shard_node_weights::{Bf16, dequantise};

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let ty = Dtype::ALL[usize::from(*first) % Dtype::ALL.len()];
    let blocks = data.len() / ty.block_bytes() as usize;
    let data = &data[..blocks * ty.block_bytes() as usize];
    let mut out = vec![Bf16::default(); blocks * ty.block_elements() as usize];
    match dequantise::convert_finite(ty, data, &mut out) {
        Ok(()) => {}
        Err(error) => assert!(matches!(error, dequantise::DequantiseError::NotFinite { .. }), "{error}"),
    }
});
