//! Notes, keys and checkpoints: bytes that are none, changed ones, and what must not be believed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::CheckpointError;
use crate::{
    Checkpoint, KeyError, MAX_NOTE_BYTES, MAX_SIGNATURES, MAX_SIZE, Note, NoteError, SignatureKind,
    SignatureLine, hash,
};

/// A note with this text, signed by the log's key under any rules of its text.
fn signed(text: &str) -> Vec<u8> {
    let key = log_verifier();
    let id = u32::from_be_bytes(key.id()).to_be_bytes();
    let signature = [&id[..], &log_key().sign(b"", text.as_bytes())].concat();
    format!("{text}\n\u{2014} {} {}\n", key.name(), BASE64.encode(signature)).into_bytes()
}

fn text_of(origin: &str, size: &str, root: &str) -> String {
    format!("{origin}\n{size}\n{root}\n")
}

#[test]
fn only_one_spelling_of_a_checkpoint_is_read() {
    let (origin, root) = (log_verifier().name().to_string(), BASE64.encode([1; 32]));
    let read = |text: &str| {
        SignedCheckpoint::parse(&signed(text)).and_then(|checkpoint| checkpoint.verify(&log_verifier()))
    };
    assert!(read(&text_of(&origin, "7", &root)).is_ok());
    assert!(read(&format!("{}further\nlines\n", text_of(&origin, "7", &root))).is_ok());
    for size in [
        "",
        "07",
        "+7",
        "-7",
        " 7",
        "7 ",
        "0x7",
        "7.0",
        "\u{661}",
        "9223372036854775808",
        "18446744073709551616",
    ] {
        let error = read(&text_of(&origin, size, &root)).unwrap_err();
        assert!(matches!(error, CheckpointError::Size | CheckpointError::Lines), "{size}: {error}");
    }
    let loose = format!("{}B=", &root[..42]);
    for root in ["", "AAAA", &root[1..], &format!("{root}="), &root[..43], &loose, &BASE64.encode([1; 33])] {
        let error = read(&text_of(&origin, "7", root)).unwrap_err();
        assert!(matches!(error, CheckpointError::Root | CheckpointError::Lines), "{root}: {error}");
    }
    // The empty tree has one root.
    assert_eq!(read(&text_of(&origin, "0", &root)), Err(CheckpointError::Root));
    assert!(read(&text_of(&origin, "0", &BASE64.encode(hash::of_nothing().as_bytes()))).is_ok());
    for text in [format!("{origin}\n7\n"), format!("\n7\n{root}\n"), format!("{origin}\n7\n{root}\n\nx\n")] {
        assert_eq!(read(&text), Err(CheckpointError::Lines), "{text}");
    }
    for origin in ["a b", "a+b", "a\u{a0}b"] {
        assert_eq!(read(&text_of(origin, "7", &root)), Err(CheckpointError::Origin(KeyError::Name)));
    }
    assert_eq!(read(&text_of("other.example/log", "7", &root)), Err(CheckpointError::OtherLog));
}

#[test]
fn what_nobody_would_read_is_not_signed() {
    let origin = KeyName::of_log(log_key().node_id());
    let sign = |size, root, key: NodeKey| Checkpoint { origin: origin.clone(), size, root }.sign(&key);
    assert!(sign(MAX_SIZE, Digest::ZERO, log_key()).is_some());
    assert!(sign(MAX_SIZE + 1, Digest::ZERO, log_key()).is_none());
    assert!(sign(0, Digest::ZERO, log_key()).is_none());
    assert!(sign(0, hash::of_nothing(), log_key()).is_some());
    // Another key under this name is another log, and nobody's who knows the name's key.
    let forged = sign(7, Digest::ZERO, witness_key()).unwrap().to_bytes();
    assert_eq!(open(&forged), None);
    let witness = VerifierKey::of_witness(witness_key().node_id());
    let ours = sign(7, Digest::ZERO, log_key()).unwrap();
    assert!(ours.cosign(&witness, &log_key(), 1).is_none());
    assert!(ours.cosign(&witness, &witness_key(), 1 << 63).is_none());
}

#[test]
fn hostile_notes_are_refused() {
    let good = signed("text\n");
    let parse = |bytes: &[u8]| Note::parse(bytes).map(|_| ());
    assert_eq!(parse(&good), Ok(()));
    let line = good[6..].to_vec();
    let lines = |count: usize| [&good[..6], &line.repeat(count)].concat();
    assert_eq!(parse(&lines(MAX_SIGNATURES)), Ok(()));
    assert_eq!(parse(&lines(MAX_SIGNATURES + 1)), Err(NoteError::TooMany));
    assert_eq!(parse(&vec![b'\n'; MAX_NOTE_BYTES + 1]), Err(NoteError::TooLong(MAX_NOTE_BYTES + 1)));
    assert_eq!(parse(b"\xff\n\n\n"), Err(NoteError::NotText));
    for control in ["\0", "\r", "\t", "\x1f"] {
        assert_eq!(parse(format!("a{control}\n\n\u{2014} a AAAAAAA=\n").as_bytes()), Err(NoteError::NotText));
    }
    for form in ["", "\n", "text\n", "text\n\u{2014} a AAAAAAA=\n", "text\n\n\u{2014} a AAAAAAA="] {
        assert_eq!(parse(form.as_bytes()), Err(NoteError::Form), "{form:?}");
    }
    for line in [
        "",
        "x",
        "- a AAAAAAA=",
        "\u{2014}a AAAAAAA=",
        "\u{2014}  AAAAAAA=",
        "\u{2014} a  AAAAAAA=",
        "\u{2014} a+b AAAAAAA=",
        "\u{2014} a AAAAAA==",
        "\u{2014} a AAAAAAA",
        "\u{2014} a AAAAAAB=",
        "\u{2014} a AAAAAAA= ",
        "\u{2014} a AA_AAAA=",
        "\u{2014} a",
        "\u{2014} ",
    ] {
        let error = parse(format!("text\n\n{line}\n").as_bytes());
        assert!(matches!(error, Err(NoteError::Line(0) | NoteError::Form)), "{line:?}: {error:?}");
    }
}

#[test]
fn a_forged_line_of_a_known_key_spoils_the_note() {
    let (key, good) = (log_verifier(), signed("text\n"));
    let mut note = Note::parse(&good).unwrap();
    assert_eq!(note.verify(&key), Ok(0));
    let other = VerifierKey::of_log(witness_key().node_id());
    assert_eq!(note.verify(&other), Err(NoteError::Unsigned));
    let mut line: SignatureLine = note.signatures()[0].clone();
    line.signature[0] ^= 1;
    note.push(line).unwrap();
    assert_eq!(note.verify(&key), Err(NoteError::Forged(1)));
    // Lines of unknown keys are nothing, also under a known name.
    let mut note = Note::parse(&good).unwrap();
    let name = key.name().clone();
    note.push(SignatureLine { name, id: [0; 4], signature: vec![0; 64] }).unwrap();
    assert_eq!(note.verify(&key), Ok(0));
    // What a log signs is no cosignature of the same key, and the other way round.
    let witness = VerifierKey::new(key.name().clone(), SignatureKind::Cosignature, key.key());
    assert_ne!(witness.id(), key.id());
    assert_eq!(Note::parse(&good).unwrap().verify(&witness), Err(NoteError::Unsigned));
    assert_eq!(witness.check("text\n", &note.signatures()[0].signature), None);
}

#[test]
fn a_cosignature_of_no_time_is_none() {
    let witness = VerifierKey::of_witness(witness_key().node_id());
    for (time, known) in [(0, true), (i64::MAX as u64, true), (1 << 63, false), (u64::MAX, false)] {
        let head = format!("cosignature/v1\ntime {time}\n");
        let signature = witness_key().sign(head.as_bytes(), b"text\n");
        let line = [&time.to_be_bytes()[..], &signature].concat();
        assert_eq!(witness.check("text\n", &line), known.then_some(time));
        assert_eq!(witness.check("text\n", &line[1..]), None);
        assert_eq!(witness.check("text\n", &signature), None);
    }
}

#[test]
fn one_key_is_one_witness() {
    let checkpoint = Kept::of(5).sign();
    let key = witness_key().node_id();
    let witness = VerifierKey::of_witness(key);
    let twin = VerifierKey::new("witness.example/twin".parse().unwrap(), SignatureKind::Cosignature, key);
    let (mut cosigned, line) = (checkpoint.clone(), |key| checkpoint.cosign(key, &witness_key(), 9).unwrap());
    cosigned.add_cosignature(&witness, line(&witness)).unwrap();
    cosigned.add_cosignature(&twin, line(&twin)).unwrap();
    let keys = [witness.clone(), twin, VerifierKey::of_witness(log_key().node_id()), log_verifier()];
    assert_eq!(cosigned.cosigned_by(&keys), [(&witness, 9)]);
}

#[test]
fn hostile_keys_are_refused() {
    let good = log_verifier().to_string();
    assert_eq!(good.parse(), Ok(log_verifier()));
    let (name, rest) = good.split_once('+').unwrap();
    let (id, key) = rest.split_once('+').unwrap();
    for (text, error) in [
        (String::new(), KeyError::Name),
        (format!("+{id}+{key}"), KeyError::Name),
        (format!("a b+{id}+{key}"), KeyError::Name),
        (format!("{name}+{id}"), KeyError::Form),
        (format!("{name}+00000000+{key}"), KeyError::Id),
        (format!("{name}+{}+{key}", id.to_uppercase()), KeyError::Id),
        (format!("{name}x+{id}+{key}"), KeyError::Id),
        (format!("{name}+{id}+"), KeyError::Form),
        (format!("{name}+{id}+{}", BASE64.encode([1; 32])), KeyError::Form),
        (format!("{name}+{id}+{}", BASE64.encode([2; 33])), KeyError::Kind),
        (format!("{name}+{id}+{}", "A".repeat(100_000)), KeyError::Form),
    ] {
        assert_eq!(text.parse::<VerifierKey>(), Err(error), "{text:.100}");
    }
    assert!("x".repeat(256).parse::<KeyName>().is_err());
}

proptest! {
    #[test]
    fn any_changed_byte_of_a_checkpoint_is_refused(at: prop::sample::Index, bit in 0u8..8) {
        let good = Kept::of(3).sign().to_bytes();
        prop_assert!(open(&good).is_some());
        let mut changed = good.clone();
        changed[at.index(good.len())] ^= 1 << bit;
        prop_assert_eq!(open(&changed), None);
        prop_assert_eq!(open(&good[..at.index(good.len())]), None);
    }

    #[test]
    fn no_note_panics(text in "[a-z0-9 +=\u{2014}\n]{0,200}") {
        if let Ok(note) = Note::parse(text.as_bytes()) {
            prop_assert_eq!(note.to_bytes(), text.into_bytes());
        }
    }
}
