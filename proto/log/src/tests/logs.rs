//! A log that grows and goes on after a restart, and the audit of it.

use proptest::prelude::*;

use super::*;
use crate::audit::{Audit, AuditError, audit};
use crate::entry::{EntryKind, MAX_ENTRY_BYTES};
use crate::proof::{check_inclusion, prove_inclusion};
use crate::{AppendError, ResumeError, TILE_WIDTH, TileKind, hash};

fn path(text: &str) -> TilePath {
    text.parse().unwrap()
}

#[test]
fn growing_by_steps_or_at_once_makes_the_same_tree() {
    let mut steps = Kept::default();
    let mut size = 0;
    for step in [1, 0, 254, 1, 1, 255, 300, 700, 1] {
        size += step;
        let first = steps.log.size();
        steps.grow(size, 0);
        assert_eq!((first + step, steps.log.size()), (size, size));
        let at_once = Kept::of(size);
        assert_eq!(steps.sign(), at_once.sign());
        // Besides, the steps left partial tiles behind.
        assert!(at_once.files.iter().all(|(path, bytes)| steps.files.get(path) == Some(bytes)));
        assert!(audit(&steps.files, &steps.sign(), &[]).is_ok());
        steps = Kept { log: Log::resume(&steps.sign(), &steps.files).unwrap(), ..steps };
    }
}

#[test]
fn a_tree_writes_the_files_of_the_specification() {
    let names: Vec<String> = Kept::of(513).files.keys().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/1",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/1",
        ]
    );
    let names: Vec<String> = Kept::of(256).files.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]);
}

#[test]
fn batches_are_whole_or_nothing() {
    let mut kept = Kept::of(3);
    let mut bad = entry(16, 0);
    if let Entry::ModelManifest(manifest) = &mut bad {
        manifest.name.clear();
    }
    let before = kept.sign();
    let error = kept.log.append(&[entry(1, 0), bad]).unwrap_err();
    assert!(matches!(error, AppendError::Entry { index: 1, .. }));
    let many = vec![entry(1, 0); MAX_BATCH + 1];
    assert_eq!(kept.log.append(&many), Err(AppendError::Batch(MAX_BATCH + 1)));
    assert_eq!(kept.log.append(&[]).unwrap().writes, []);
    assert_eq!(kept.sign(), before);
}

#[test]
fn a_log_goes_on_only_from_what_it_signed() {
    let kept = Kept::of(300);
    let resume = |files: &Files| Log::resume(&kept.sign(), files).map(|log| log.size());
    assert_eq!(resume(&kept.files), Ok(300));
    assert!(matches!(resume(&Files::new()), Err(ResumeError::Tile(_))));
    // A crash left tiles of entries that no checkpoint covers: they are written again.
    let mut crashed = kept.clone();
    crashed.grow(600, 1);
    assert_eq!(resume(&crashed.files), Ok(300));
    let mut again = Kept { log: Log::resume(&kept.sign(), &crashed.files).unwrap(), files: crashed.files };
    again.grow(700, 0);
    assert_eq!(audit(&again.files, &again.sign(), &[kept.sign()]).unwrap().kinds.len(), 2);
    for (name, tile) in
        [("tile/0/001.p/44", true), ("tile/1/000.p/1", true), ("tile/entries/001.p/44", false)]
    {
        let mut files = kept.files.clone();
        files.get_mut(&path(name)).unwrap()[20] ^= 1;
        let found = resume(&files);
        let root = found == Err(ResumeError::Root { size: 300 });
        assert!(found.is_err() && root == tile, "{name}: {found:?}");
    }
}

#[test]
fn an_audit_counts_what_is_there() {
    let kept = Kept::of(1000);
    let kinds = [(EntryKind::SessionRoot, 1000 - 63), (EntryKind::ModelManifest, 63)].into();
    assert_eq!(audit(&kept.files, &kept.sign(), &[]), Ok(Audit { kinds, unknown: 0 }));
    assert_eq!(audit(&Files::new(), &Kept::of(0).sign(), &[]), Ok(Audit::default()));
    let seen: Vec<_> = [0, 1, 255, 256, 257, 999, 1000].map(|size| Kept::of(size).sign()).into();
    assert!(audit(&kept.files, &kept.sign(), &seen).is_ok());
    let error = audit(&kept.files, &Kept::of(257).sign(), &seen);
    assert!(
        matches!(error, Err(AuditError::Tile(_))),
        "partial tiles of 257 entries are not there: {error:?}"
    );
    let older = Kept::of(257);
    let error = audit(&older.files, &older.sign(), &seen);
    assert_eq!(error, Err(AuditError::Older { size: 257, seen: 999 }));
}

#[test]
fn an_audit_names_the_first_thing_wrong() {
    let kept = Kept::of(600);
    let check = |change: &dyn Fn(&mut Files)| {
        let mut files = kept.files.clone();
        change(&mut files);
        audit(&files, &kept.sign(), &[]).unwrap_err().to_string()
    };
    let flip = |name: &'static str, at: usize| {
        check(&move |files: &mut Files| files.get_mut(&path(name)).unwrap()[at] ^= 1)
    };
    assert_eq!(flip("tile/0/001", 32 * 5), "hash 5 of tile/0/001 is not that of what it stands for");
    assert_eq!(flip("tile/0/002.p/88", 0), "hash 0 of tile/0/002.p/88 is not that of what it stands for");
    assert_eq!(flip("tile/1/000.p/2", 63), "hash 1 of tile/1/000.p/2 is not that of what it stands for");
    // The first entry of a bundle lies behind its length, version and kind.
    assert_eq!(flip("tile/entries/001", 20), "hash 0 of tile/0/001 is not that of what it stands for");
    assert_eq!(
        flip("tile/entries/001", 0),
        "tile/entries/001: entry 20 of 6647 bytes, at most 1024 are allowed"
    );
    assert_eq!(check(&|files| drop(files.remove(&path("tile/entries/001")))), "tile/entries/001 is missing");
    assert_eq!(check(&|files| drop(files.remove(&path("tile/1/000.p/2")))), "tile/1/000.p/2 is missing");
    assert_eq!(
        check(&|files| files.get_mut(&path("tile/0/001")).unwrap().truncate(32 * 255)),
        "tile/0/001 has 8160 bytes"
    );
    let other = Kept::of(601);
    let swapped = check(&|files| {
        files.insert(path("tile/entries/002.p/88"), other.files[&path("tile/entries/002.p/89")].clone());
    });
    assert_eq!(swapped, "tile/entries/002.p/88 holds 89 entries");
    // A tree in order under another checkpoint.
    let mut forked = Kept::of(500);
    forked.grow(600, 1);
    let error = audit(&forked.files, &kept.sign(), &[]).unwrap_err();
    assert!(matches!(error, AuditError::Root { size: 600, .. }));
    assert!(MAX_ENTRY_BYTES < usize::from(u16::MAX));
}

#[test]
fn entries_of_later_kinds_are_counted_and_broken_ones_named() {
    let mut files = Kept::of(1).files;
    let mut bytes = entry(0, 0).encode().unwrap();
    let mut check = |bytes: &[u8]| {
        let leaf = hash::of_leaf(bytes);
        let bundle = [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        files.insert(path("tile/0/000.p/1"), leaf.as_bytes().to_vec());
        files.insert(path("tile/entries/000.p/1"), bundle);
        let origin = KeyName::of_log(log_key().node_id());
        let checkpoint = crate::Checkpoint { origin, size: 1, root: leaf }.sign(&log_key()).unwrap();
        audit(&files, &checkpoint, &[])
    };
    bytes[2] = 99;
    assert_eq!(check(&bytes), Ok(Audit { kinds: [].into(), unknown: 1 }));
    bytes[2] = 1;
    assert!(matches!(check(&bytes), Err(AuditError::Entry { index: 0, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_changed_byte_of_a_file_is_found(size in 1u64..700, file: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8) {
        let mut kept = Kept::of(size);
        let checkpoint = kept.sign();
        let bytes = kept.files.values_mut().nth(file.index(kept.log.size().div_ceil(TILE_WIDTH as u64) as usize)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(audit(&kept.files, &checkpoint, &[]).is_err());
    }

    #[test]
    fn what_was_appended_is_proven_from_the_files(size in 1u64..700, at: prop::sample::Index) {
        let kept = Kept::of(size);
        let index = at.index(size as usize) as u64;
        let bundle = TilePath::in_tree(TileKind::Entries, index / 256, size).unwrap();
        let entries = crate::read_bundle(&kept.files[&bundle]).unwrap();
        let bytes = entries[(index % 256) as usize];
        prop_assert_eq!(Entry::decode(bytes).unwrap(), entry(index, 0));
        let proof = prove_inclusion(&kept.tiles(), size, index).unwrap();
        let root = kept.sign().checkpoint().root;
        prop_assert_eq!(check_inclusion(&root, size, index, hash::of_leaf(bytes), &proof), Ok(()));
    }
}
