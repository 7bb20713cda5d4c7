//! The bytes of every frame kind are fixed: `golden/<Kind>.hex` holds header and body.
//!
//! A new kind gets its file by `LAYERLANE_WRITE_GOLDEN=1 cargo test -p proto --test golden`; an existing file is never
//! rewritten, since that would be another protocol.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod examples;

use std::path::PathBuf;

use bytes::Bytes;
use proto::{FrameHeader, FrameKind};

fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let header = FrameHeader::new(kind, body.len()).expect("examples are within their limits");
    [&header.to_bytes()[..], body].concat()
}

/// As the first version of each kind has it, and with the fields that it gained since.
fn all() -> impl Iterator<Item = (String, FrameKind, Bytes)> {
    let first = FrameKind::ALL.iter().map(|&kind| (kind.to_string(), kind, examples::body(kind)));
    first.chain(examples::extended().into_iter().map(|(name, kind, body)| (name.to_owned(), kind, body)))
}

#[test]
fn frames_have_their_golden_bytes() {
    let write = std::env::var_os("LAYERLANE_WRITE_GOLDEN").is_some();
    for (name, kind, body) in all() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/{name}.hex"));
        let ours = hex::encode(frame(kind, &body));
        if write && !path.exists() {
            std::fs::write(&path, format!("{ours}\n")).expect("golden directory can be written");
        }
        let golden = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; see the top of this file", path.display()));
        assert_eq!(ours, golden.trim(), "{name} changed on the wire");
    }
}

#[test]
fn golden_bodies_decode_and_encode_to_themselves() {
    for (name, kind, body) in all() {
        assert_eq!(examples::round_trip(kind, &body).unwrap(), body, "{name}");
    }
}

#[test]
fn an_id_is_read_from_its_hexadecimal_form_only() {
    let id = proto::NodeId::from_bytes([0xab; 32]);
    assert_eq!(id.to_hex().parse::<proto::NodeId>().unwrap(), id);
    for bad in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
        assert!(bad.parse::<proto::NodeId>().is_err());
    }
}
