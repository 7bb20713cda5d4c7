//! The header of a safetensors file; what it accepts lies within the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shard_node_weights::safetensors;

fuzz_target!(|data: &[u8]| {
    if let Ok(tensors) = safetensors::parse(data) {
        assert!(tensors.iter().all(|tensor| tensor.offset + tensor.len <= data.len() as u64));
    }
});
