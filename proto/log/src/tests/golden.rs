//! Against other hands: the vectors of RFC 6962's own implementation, files written by the Go project's log, and the
//! texts of its documentation. `golden/generate.go` makes the files anew.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::edge::Edge;
use crate::proof::{check_consistency, check_inclusion, prove_consistency, prove_inclusion};
use crate::{Note, SignatureKind, TileSource, hash};

const TREE: &str = include_str!("../../golden/tree.txt");
const CHECKPOINT: &[u8] = include_bytes!("../../golden/checkpoint.txt");

#[test]
fn roots_are_those_of_certificate_transparency() {
    let leaves =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut edge = Edge::default();
    assert_eq!(edge.root().to_string(), roots[0]);
    for (leaf, root) in leaves.iter().zip(&roots[1..]) {
        edge.push(hash::of_leaf(&hex::decode(leaf).unwrap()), |_, _| panic!("no tile is full"));
        assert_eq!(edge.root().to_string(), *root);
    }
}

#[test]
fn tiles_roots_and_proofs_are_those_of_the_go_project() {
    let (mut edge, mut files, mut leaves, mut roots) =
        (Edge::default(), Files::new(), Vec::new(), vec![hash::of_nothing()]);
    let bytes = |hashes: &[Digest]| hashes.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>();
    let wanted = |size: u64| TREE.contains(&format!("root {size} "));
    for index in 0..66_000u64 {
        leaves.push(hash::of_leaf(format!("entry {index}").as_bytes()));
        edge.push(leaves[index as usize], |path, hashes| {
            files.insert(path, bytes(hashes));
        });
        roots.push(if index < 70 || wanted(index + 1) { edge.root() } else { Digest::ZERO });
    }
    files.extend(edge.partial().map(|(path, hashes)| (path, bytes(hashes))));
    assert_eq!(files.len(), TREE.lines().filter(|line| line.starts_with("tile")).count());
    let root = |size: u64| {
        if roots[size as usize] == Digest::ZERO {
            let mut edge = Edge::default();
            leaves[..size as usize].iter().for_each(|&leaf| edge.push(leaf, |_, _| {}));
            return edge.root();
        }
        roots[size as usize]
    };
    let digest = |proof: &[Digest]| format!("{} {}", proof.len(), hex::encode(Sha256::digest(bytes(proof))));
    let tiles = Tiles::new(&files, 66_000);
    for line in TREE.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "root" => assert_eq!(root(number(1)).to_string(), words[2]),
            "inclusion" => {
                let (size, index) = (number(1), number(2));
                let proof = prove_inclusion(&tiles, size, index).unwrap();
                assert_eq!(digest(&proof), words[3], "{line}");
                check_inclusion(&root(size), size, index, leaves[index as usize], &proof).unwrap();
            }
            "consistency" => {
                let (old, new) = (number(1), number(2));
                let proof = prove_consistency(&tiles, old, new).unwrap();
                assert_eq!(digest(&proof), words[3], "{line}");
                check_consistency((old, &root(old)), (new, &root(new)), &proof).unwrap();
            }
            _ => {
                let tile = files.read(&words[1].parse().unwrap()).unwrap();
                assert_eq!(hex::encode(Sha256::digest(tile)), words[2], "{line}");
            }
        }
    }
}

#[test]
fn checkpoints_are_signed_as_by_the_go_project() {
    let mut checkpoint = open(CHECKPOINT).unwrap();
    assert_eq!(checkpoint.to_bytes(), CHECKPOINT);
    let root = TREE.lines().find_map(|line| line.strip_prefix("root 66000 ")).unwrap();
    assert_eq!(checkpoint.checkpoint().size, 66_000);
    assert_eq!(checkpoint.checkpoint().root.to_string(), root);
    let witness = VerifierKey::of_witness(witness_key().node_id());
    assert_eq!(checkpoint.cosigned_by(std::slice::from_ref(&witness)), [(&witness, 1_790_000_000)]);
    // And ours gives the same bytes.
    let mut ours = checkpoint.checkpoint().clone().sign(&log_key()).unwrap();
    let line = ours.cosign(&witness, &witness_key(), 1_790_000_000).unwrap();
    assert_eq!(ours.add_cosignature(&witness, line.clone()), Ok(1_790_000_000));
    assert_eq!(ours.to_bytes(), CHECKPOINT);
    // A line of another key, or none of this checkpoint's, is not added.
    assert!(checkpoint.add_cosignature(&log_verifier(), line.clone()).is_err());
    let mut other = Kept::of(3).sign();
    assert!(other.add_cosignature(&witness, line).is_err());
    assert_eq!(other.cosigned_by(&[witness]), []);
}

#[test]
fn notes_and_keys_of_the_documentation_are_read() {
    let key: VerifierKey =
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
    let text = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n\n\
                \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    let note = Note::parse(text.as_bytes()).unwrap();
    assert_eq!(note.verify(&key), Ok(0));
    assert_eq!(note.to_bytes(), text.as_bytes());
    for (text, kind) in [
        ("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", SignatureKind::Cosignature),
        ("TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6", SignatureKind::Ed25519),
    ] {
        let key: VerifierKey = text.parse().unwrap();
        assert_eq!((key.kind(), key.to_string()), (kind, text.to_owned()));
    }
    // The example of the specification, with a text of empty lines and other letters.
    let text = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned \u{e8} subito sera.\n\n\
                \u{2014} quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
    let note = Note::parse(text.as_bytes()).unwrap();
    assert_eq!(note.text().lines().count(), 4);
    assert_eq!(note.signatures()[0].id, [0x36, 0x7b, 0xa0, 0x4b]);
}
