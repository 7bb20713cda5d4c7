//! A manifest from a peer, under the id that it hashes to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::manifest::Manifest;
use proto::{ContentHash, ModelId};

fuzz_target!(|data: &[u8]| {
    let id = ModelId::from_bytes(*ContentHash::of(data).as_bytes());
    let _ = Manifest::from_bytes(data, id);
});
