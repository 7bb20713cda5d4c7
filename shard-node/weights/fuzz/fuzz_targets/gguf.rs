//! The header of a GGUF file; what it accepts lies within the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shard_node_weights::gguf::Gguf;

fuzz_target!(|data: &[u8]| {
    if let Ok(gguf) = Gguf::parse(data) {
        assert!(gguf.tensors.iter().all(|tensor| tensor.offset + tensor.len <= data.len() as u64));
    }
});
