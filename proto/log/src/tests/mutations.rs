//! Bytes of strangers: good ones changed at random and in several places, and sizes that nobody can have.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::audit::{AuditError, audit};
use crate::evidence::EvidenceError;
use crate::proof::prove_consistency;
use crate::witness::AddCheckpoint;
use crate::{Checkpoint, ForkEvidence, MAX_SIZE, Note, ResumeError, TileError, read_bundle};

/// One of everything that is read.
static GOOD: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (left, mut right) = (Kept::of(20), Kept::of(10));
    right.grow(30, 1);
    let evidence = ForkEvidence::from_tiles(
        &log_verifier(),
        left.sign().signed(),
        right.sign().signed(),
        &right.tiles(),
    );
    let proof = prove_consistency(&right.tiles(), 20, 30).unwrap();
    let bundle: TilePath = "tile/entries/000.p/20".parse().unwrap();
    vec![
        entry(0, 0).encode().unwrap(),
        entry(1, 0).encode().unwrap(),
        left.files[&bundle].clone(),
        left.sign().to_bytes(),
        AddCheckpoint::new(20, proof, &right.sign()).encode(),
        evidence.unwrap().encode(),
        log_verifier().to_string().into_bytes(),
        b"tile/0/x001/x234/067.p/200".to_vec(),
    ]
});

/// Reads the bytes as everything. Whatever is accepted is written again as it was.
fn read(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode().unwrap(), bytes);
    }
    if let Ok(entries) = read_bundle(bytes) {
        assert_eq!(entries.iter().map(|entry| entry.len() + 2).sum::<usize>(), bytes.len());
    }
    if let Ok(note) = Note::parse(bytes) {
        assert_eq!(note.to_bytes(), bytes);
        let _ = SignedCheckpoint::parse(bytes);
    }
    if let Ok(request) = AddCheckpoint::parse(bytes) {
        assert_eq!(request.encode(), bytes);
    }
    if let Ok(evidence) = ForkEvidence::decode(bytes) {
        assert_eq!(evidence.encode(), bytes);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        if let Ok(key) = text.parse::<VerifierKey>() {
            assert_eq!(key.to_string(), text);
        }
        if let Ok(path) = text.parse::<TilePath>() {
            assert_eq!(path.to_string(), text);
        }
    }
}

#[test]
fn good_bytes_are_read_as_one_thing() {
    GOOD.iter().for_each(|bytes| read(bytes));
}

#[test]
fn a_log_that_claims_a_tree_that_nobody_has_costs_nothing() {
    let kept = Kept::of(300);
    for size in [301, 1 << 40, MAX_SIZE - 1, MAX_SIZE] {
        let origin = KeyName::of_log(log_key().node_id());
        let claim = Checkpoint { origin, size, root: Digest::ZERO }.sign(&log_key()).unwrap();
        assert!(open(&claim.to_bytes()).is_some());
        assert!(matches!(audit(&kept.files, &claim, &[]), Err(AuditError::Tile(_))));
        assert!(matches!(Log::resume(&claim, &kept.files), Err(ResumeError::Tile(_))));
        let tiles = Tiles::new(&kept.files, size);
        assert!(matches!(prove_consistency(&tiles, 299, size), Err(TileError::Missing(_))));
        let found = ForkEvidence::from_tiles(&log_verifier(), kept.sign().signed(), claim.signed(), &tiles);
        assert!(matches!(found, Err(EvidenceError::Tile(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn changed_bytes_never_panic(
        which: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        let mut bytes = which.get(&GOOD).clone();
        for (at, value, how) in changes {
            let at = at.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, value),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.extend_from_within(..at),
                _ => *bytes.get_mut(at.saturating_sub(1)).unwrap_or(&mut 0) = value,
            }
        }
        read(&bytes);
    }
}
