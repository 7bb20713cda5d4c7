//! Header and body of one frame of any kind.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::FrameHeader;

#[path = "../../tests/examples/mod.rs"]
mod examples;

fuzz_target!(|data: &[u8]| {
    let Some((head, body)) = data.split_first_chunk() else { return };
    if let Ok(header) = FrameHeader::parse(*head) {
        let _ = examples::round_trip(header.kind(), &Bytes::copy_from_slice(body));
    }
});
