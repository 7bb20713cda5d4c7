//! Manifests by id: a node that is told which weights it has takes their manifest from the swarm, and reads only its
//! span's tensors.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;
use std::time::Duration;

use cluster_tests::processes::Programs;
use cluster_tests::tiny_llama::write_sharded;
use serde_json::json;

const QUICK: Duration = Duration::from_mins(1);
const ALIAS: &str = "smollm2-135m-instruct";
const GRAVITY: &str = "Gravity is a fundamental concept in physics";
/// Bytes of this tensor are damaged.
const OF_LAYER_3: &str = "blk.3.ffn_down.weight";

/// Runs a `serve` that must fail, and checks that its last words hold all of `words`.
fn refused(programs: &Programs, home: &Path, arguments: &[&str], words: &[&str]) {
    let all = [&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], arguments].concat();
    let finished = programs.run("shard-node", home, &all, QUICK).unwrap();
    let said = &finished.stderr;
    assert!(!finished.status.success(), "it serves: {said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// A copy of the model with one byte of a tensor of layer 3 changed.
fn damaged_copy(programs: &Programs, folder: &Path) -> String {
    let mut bytes = std::fs::read(programs.model().unwrap()).unwrap();
    let at = tensor_offset(&bytes, OF_LAYER_3) + 1000;
    bytes[at] ^= 1;
    let path = folder.join("damaged.gguf");
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// Where a tensor's bytes begin in a GGUF file of version 3: the table gives it from the aligned end of the table.
fn tensor_offset(file: &[u8], name: &str) -> usize {
    let number = |at: usize, bytes: usize| {
        file[at..at + bytes].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    // An entry: name with its length, number of dimensions, dimensions, type, offset.
    let entry_of = |name: &str| {
        let entry = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
        file.windows(entry.len()).position(|window| window == entry).map(|at| at + entry.len())
    };
    let offset_field = |entry: usize| entry + 4 + 8 * number(entry, 4) + 4;
    let mut end = entry_of(name).unwrap();
    // The table ends with the last entry that follows another without a gap.
    let first = end;
    loop {
        let next = offset_field(end) + 8;
        let length = number(next, 8);
        let is_entry =
            (1..=64).contains(&length) && file[next + 8..next + 8 + length].iter().all(u8::is_ascii_graphic);
        if !is_entry {
            return next.next_multiple_of(32) + number(offset_field(first), 8);
        }
        end = next + 8 + length;
    }
}

#[test]
fn a_node_by_model_id_reads_only_its_span_and_refuses_other_bytes_by_tensor() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    // Each node is a machine of its own, with a cache of its own.
    let [a_home, b_home, c_home] = ["a", "b", "c"].map(|name| {
        let folder = home.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    });
    let a = programs.swarm(&a_home, &["0..15"], &[]).unwrap().remove(0);
    let (target, id) = (a.ready().target(), a.ready().model_id.clone());
    let damaged = damaged_copy(&programs, home.path());
    let of = |layers| ["--model", &damaged, "--name", ALIAS, "--layers", layers, "--bootstrap", &target];

    // By itself the copy would be another model.
    let b = programs.node(&b_home, &[&of("15..30")[..], &["--model-id", &id]].concat()).unwrap();
    assert_eq!(b.ready().model_id, id);
    let log = b.log_text();
    assert!(log.contains("manifest fetched") && !log.contains("hashing the model"), "{log}");
    let greedy = ["--chat", "--max-tokens", "16", "--prompt", "What is gravity?"];
    let answer = programs.generate(&a_home, a.ready(), &greedy).unwrap();
    assert!(answer["text"].as_str().unwrap().starts_with(GRAVITY), "{answer}");
    assert_eq!(answer["model_id"], json!(id));
    assert_eq!(answer["route"].as_array().unwrap().len(), 2);

    let named = ["damaged.gguf", "model.layers.3.mlp.down_proj.weight", &id[..8]];
    let state = b_home.join("again").display().to_string();
    let again = [&of("0..15")[..], &["--model-id", &id, "--state-dir", &state]].concat();
    refused(&programs, &b_home, &again, &named);

    // What was fetched is kept: nobody need be asked again.
    let kept = ["--model", &damaged, "--layers", "0..15", "--model-id", &id, "--state-dir", &state];
    refused(&programs, &b_home, &kept, &named);
    // Node A computed it, and kept it under its id.
    let model = programs.model().unwrap().display().to_string();
    let computed = ["--model", &model, "--layers", "29..30", "--model-id", &id];
    let second = programs.node(&a_home, &computed).unwrap();
    assert_eq!(second.ready().model_id, id);

    let state = c_home.join("state").display().to_string();
    let wrong_id = format!("{:064x}", 0xbad);
    let cure = "leave out --model-id to compute it from the files";
    let wrong = |more: &[&str], words: &[&str]| {
        let all = [&["--model", &model, "--layers", "0..1", "--state-dir", &state][..], more].concat();
        refused(&programs, &c_home, &all, words);
    };
    let nobody = format!("nobody serves a manifest with id {wrong_id}");
    wrong(&["--model-id", &wrong_id, "--bootstrap", &target], &[&nobody, cure]);
    wrong(&["--model-id", &wrong_id], &[&wrong_id, "--bootstrap", cure]);
    wrong(&["--model-id", "beef"], &["model-id", "64 hexadecimal digits"]);
    // Files of quite another model.
    let tiny = home.path().join("tiny");
    write_sharded(&tiny).unwrap();
    let tiny = tiny.display().to_string();
    let all = ["--model", &tiny, "--model-id", &id, "--bootstrap", &target, "--state-dir", &state];
    refused(&programs, &c_home, &all, &["container is safetensors", "says gguf", &id[..8], "another model"]);
}

#[test]
fn a_node_by_model_id_needs_only_the_shard_files_of_its_span() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let [a_home, b_home] = ["a", "b"].map(|name| {
        let folder = home.path().join(name);
        write_sharded(&folder.join("tiny")).unwrap();
        folder
    });
    let part = b_home.join("tiny");
    std::fs::remove_file(part.join("layer-0.safetensors")).unwrap();
    std::fs::remove_file(part.join("layer-2.safetensors")).unwrap();
    let (whole, part) = (a_home.join("tiny").display().to_string(), part.display().to_string());

    let a = programs.node(&a_home, &["--model", &whole, "--layers", "0..1"]).unwrap();
    let (target, id) = (a.ready().target(), a.ready().model_id.clone());
    let of = ["--model", &part, "--model-id", &id, "--bootstrap", &target, "--layers"];
    let b = programs.node(&b_home, &[&of[..], &["1..2"]].concat()).unwrap();
    assert_eq!((b.ready().layers, &b.ready().model_id), ([1, 2], &id));

    let state = b_home.join("state").display().to_string();
    let of = [&of[..], &["0..1", "--state-dir", &state]].concat();
    refused(&programs, &b_home, &of, &["layer-0.safetensors", "model.layers.0.", "is missing"]);
    // Without the id a manifest has to be computed, which needs all files.
    let alone = ["--model", &part, "--layers", "1..2", "--state-dir", &state];
    refused(&programs, &b_home, &alone, &["layer-0.safetensors", "is missing", "--model-id"]);
}
