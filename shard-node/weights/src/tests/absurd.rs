//! Headers that claim absurd things: each is refused for its own reason, at once, with nothing allocated for the claim.

use std::time::{Duration, Instant};

use super::with_header;
use crate::gguf::Gguf;
use crate::header::HeaderError;
use crate::safetensors;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Builds a GGUF header piece by piece.
struct Header(Vec<u8>);

impl Header {
    fn new(tensors: u64, metadata: u64) -> Self {
        Self(b"GGUF\x03\0\0\0".to_vec()).u64(tensors).u64(metadata)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self = self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
        self
    }

    /// One entry of the tensor table, of type F32.
    fn tensor(self, name: &str, shape: &[u64], offset: u64) -> Self {
        let described = self.text(name).u32(shape.len() as u32);
        shape.iter().fold(described, |header, &dim| header.u64(dim)).u32(0).u64(offset)
    }

    /// Room for tensors: zeros up to a length.
    fn filled(mut self, len: usize) -> Vec<u8> {
        self.0.resize(self.0.len().max(len), 0);
        self.0
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn absurd_gguf_headers_are_refused_each_for_its_reason() {
    let one = |metadata: u64| Header::new(0, metadata).text("a");
    let alignment = |value: u32| Header::new(0, 1).text("general.alignment").u32(4).u32(value).filled(256);
    let tensors = |tensors: &[(&str, &[u64], u64)]| {
        let header = Header::new(tensors.len() as u64, 0);
        tensors.iter().fold(header, |h, (name, shape, offset)| h.tensor(name, shape, *offset)).filled(4096)
    };
    let huge = 1 << 60;
    let cases = [
        ("2^63 tensors", Header::new(1 << 63, 0).filled(64), "the number of tensors is 9223372036854775808"),
        ("2^60 metadata", Header::new(0, huge).filled(64), "the number of metadata entries is"),
        ("a key of 2^60", Header::new(0, 1).u64(huge).filled(64), "a metadata key's length is"),
        ("a string of 2^60", one(1).u32(STRING).u64(huge).filled(64), "a metadata string's length is"),
        ("an array of 2^60", one(1).u32(ARRAY).u32(0).u64(huge).filled(64), "metadata array elements is"),
        ("an array past the end", one(1).u32(ARRAY).u32(10).u64(1 << 20).filled(99), "inside its header"),
        (
            "2^20 strings in 64 bytes",
            one(1).u32(ARRAY).u32(STRING).u64(1 << 20).filled(64),
            "inside its header",
        ),
        ("a nested array", one(1).u32(ARRAY).u32(ARRAY).u64(1).filled(64), "nested metadata array is not"),
        (
            "an array of kind 2^31",
            one(1).u32(ARRAY).u32(1 << 31).u64(1).filled(64),
            "metadata kind 2147483648",
        ),
        ("a kind of 99", one(1).u32(99).filled(64), "metadata kind 99"),
        ("one key twice", one(2).u32(4).u32(1).text("a").u32(4).u32(1).filled(64), "key a appears twice"),
        ("2^31 dimensions", Header::new(1, 0).text("t").u32(1 << 31).filled(64), "2147483648 dimensions"),
        ("no dimensions", Header::new(1, 0).text("t").u32(0).filled(64), "0 dimensions"),
        ("a shape that overflows", tensors(&[("t", &[1 << 40, 1 << 40], 0)]), "does not fit type F32"),
        ("one tensor twice", tensors(&[("t", &[8], 0), ("t", &[8], 32)]), "tensor t: appears twice"),
        ("shared bytes", tensors(&[("s", &[16], 0), ("t", &[8], 32)]), "shares bytes with tensor s"),
        ("the same bytes", tensors(&[("s", &[8], 32), ("t", &[8], 32)]), "shares bytes with tensor s"),
        ("an offset that wraps", tensors(&[("t", &[8], u64::MAX - 31)]), "tensor t ends at byte"),
        ("an offset past the end", tensors(&[("t", &[8], 1 << 62)]), "tensor t ends at byte"),
        ("a crooked offset", tensors(&[("t", &[8], 4)]), "not a multiple of the alignment 32"),
        ("alignment 0", alignment(0), "general.alignment is Unsigned(0)"),
        ("alignment 24", alignment(24), "general.alignment is Unsigned(24)"),
        ("alignment 2^31", alignment(1 << 31), "general.alignment is"),
        ("version 4", b"GGUF\x04\0\0\0".to_vec(), "GGUF version 4"),
        ("big-endian", b"GGUF\0\0\0\x03".to_vec(), "a big-endian GGUF file"),
    ];
    let start = Instant::now();
    for (name, file, reason) in cases {
        let error = Gguf::parse(&file).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    Gguf::parse(&tensors(&[("s", &[8], 0), ("t", &[8], 32)])).unwrap();
    Gguf::parse(&alignment(64)).unwrap();
}

#[test]
fn the_arrays_of_a_file_share_one_limit() {
    // Each fits alone; a file of 20 MB must not become ten times as much memory.
    let mut file = Header::new(0, 2);
    for (key, count) in [("a", 2 << 20), ("b", (2 << 20) + 1)] {
        let array = file.text(key).u32(ARRAY).u32(0).u64(count);
        let end = array.0.len() + count as usize;
        file = Header(array.filled(end));
    }
    let file = file.0;
    let error = Gguf::parse(&file).unwrap_err();
    assert!(matches!(error, HeaderError::TooLarge { limit: 2_097_152, .. }), "{error}");
}

#[test]
fn absurd_safetensors_lengths_are_refused_without_memory() {
    for len in [1 << 63, u64::MAX, u64::MAX - 7, (1 << 63) - 8, 1 << 40] {
        let file = [&len.to_le_bytes()[..], b"{}"].concat();
        let error = safetensors::parse(&file).unwrap_err();
        assert!(matches!(error, HeaderError::TooLarge { value, .. } if value == len), "{error}");
    }
    let entry = |shape: &str, to: u64| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{to}]}}}}"#)
    };
    for (header, reason) in [
        (entry("[18446744073709551616]", 4), "malformed"),
        (entry("[4294967296,4294967296,4294967296]", 4), "overflows"),
        (entry("[9223372036854775807]", u64::MAX), "overflows"),
        (entry("[2305843009213693952]", 1 << 63), "ends at byte"),
        (entry("[-1]", 4), "malformed"),
        (format!(r#"{{"a":{}}}"#, "[".repeat(1_000_000)), "malformed"),
    ] {
        let error = safetensors::parse(&with_header(&header, &[0; 4])).unwrap_err().to_string();
        assert!(error.contains(reason), "{header:.80}: {error}");
    }
}
