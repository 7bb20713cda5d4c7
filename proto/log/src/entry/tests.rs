//! Entries: golden bytes, one encoding, and bytes that are none.

use proptest::prelude::*;
use proto_attest::verdict::{AuditVerdict, Judgement, Method, Outcome};
use proto_attest::{Address, ReceiptKey};

use super::*;

fn root() -> SessionRoot {
    SessionRoot {
        session: SessionId::new(0x0102_0304_0506_0708),
        generation: Generation::new(9),
        open: Digest::from_bytes([0xaa; 32]),
        evidence: ContentHash::from_bytes([0xbb; 32]),
        model: ModelId::from_bytes([0xcc; 32]),
        ended_unix_s: 1_790_000_000,
    }
}

fn verdict(device: &str) -> Entry {
    let key = ReceiptKey::from_bytes(&[5; 32]).unwrap();
    let verdict = AuditVerdict {
        challenge: Digest::from_bytes([1; 32]),
        receipt: Digest::from_bytes([2; 32]),
        node: proto::NodeId::from_bytes([3; 32]),
        receipt_key: Address::from_bytes([4; 20]),
        judgement: Judgement {
            method: Method::ChunkDelta,
            outcome: Outcome::Pass,
            statistic: 0.25,
            threshold: 0.5,
            count: 7,
        },
        calibration: ContentHash::from_bytes([6; 32]),
        exec_build: Digest::from_bytes([7; 32]),
        device: device.to_owned(),
        auditor: key.address(),
        judged_unix_s: 1_790_000_000,
    };
    Entry::Verdict(Box::new(verdict.sign(&key).unwrap()))
}

fn manifest(name: &str) -> Entry {
    Entry::ModelManifest(ModelManifest {
        model: ModelId::from_bytes([0xdd; 32]),
        manifest_bytes: 123_456,
        listed_unix_s: 1_790_000_000,
        name: name.to_owned(),
    })
}

#[test]
fn bytes_are_those_of_the_golden_files() {
    for (entry, golden) in [
        (Entry::SessionRoot(root()), include_str!("../../golden/SessionRoot.hex")),
        (verdict("a CPU"), include_str!("../../golden/Verdict.hex")),
        (manifest("smol"), include_str!("../../golden/ModelManifest.hex")),
    ] {
        let bytes = entry.encode().unwrap();
        assert_eq!(hex::encode(&bytes), golden.trim_end(), "{:?}", entry.kind());
        assert_eq!(Entry::decode(&bytes).unwrap(), entry);
    }
}

#[test]
fn numbers_are_kept() {
    for (number, kind) in (1..).zip(EntryKind::ALL) {
        assert_eq!(EntryKind::from_number(number), Some(kind));
    }
    assert_eq!((EntryKind::from_number(0), EntryKind::from_number(4)), (None, None));
}

#[test]
fn sizes_are_those_of_the_documentation() {
    assert_eq!(Entry::SessionRoot(root()).encode().unwrap().len(), 120);
    let longest = "x".repeat(proto_attest::verdict::MAX_DEVICE_BYTES);
    assert_eq!(verdict(&longest).encode().unwrap().len(), 366);
    assert_eq!(manifest(&"x".repeat(MAX_NAME_BYTES)).encode().unwrap().len(), 177);
}

#[test]
fn names_have_limits() {
    for name in ["", "a\nb", "\u{7f}", &"x".repeat(129), &"x".repeat(256), &"x".repeat(100_000)] {
        assert_eq!(manifest(name).encode(), Err(EntryError::Field("name")));
    }
    let mut bytes = manifest("smol").encode().unwrap();
    let at = bytes.len() - 1;
    bytes[at] = 0xff;
    assert_eq!(Entry::decode(&bytes), Err(EntryError::Field("name")));
}

#[test]
fn later_versions_and_kinds_are_told_from_broken_ones() {
    let bytes = Entry::SessionRoot(root()).encode().unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        Entry::decode(&bytes).unwrap_err()
    };
    assert_eq!((with(0, 2), with(2, 9)), (EntryError::Version(2), EntryError::Kind(9)));
    assert!(with(0, 2).is_unknown() && with(2, 9).is_unknown());
    assert!(!with(2, 3).is_unknown() && !with(2, 2).is_unknown());
    assert_eq!(Entry::decode(&[]), Err(EntryError::CutShort("version")));
    assert_eq!(Entry::decode(&[0; 5000]), Err(EntryError::TooLong(5000)));
}

proptest! {
    #[test]
    fn entries_have_one_encoding(which in 0usize..3, cut: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8) {
        let entry = [Entry::SessionRoot(root()), verdict("a CPU"), manifest("smol")][which].clone();
        let bytes = entry.encode().unwrap();
        prop_assert!(Entry::decode(&bytes[..cut.index(bytes.len())]).is_err());
        prop_assert!(Entry::decode(&[&bytes[..], &[0]].concat()).is_err());
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= 1 << bit;
        if let Ok(other) = Entry::decode(&changed) {
            prop_assert_ne!(&other, &entry);
            prop_assert_eq!(other.encode().unwrap(), changed);
        }
    }

    #[test]
    fn no_bytes_panic(head in prop::sample::select(vec![[1u8, 0, 1, 0], [1, 0, 2, 0], [1, 0, 3, 0], [9, 9, 9, 9]]), rest in prop::collection::vec(any::<u8>(), 0..500)) {
        let bytes = [&head[..], &rest].concat();
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode().unwrap(), bytes);
        }
    }
}
