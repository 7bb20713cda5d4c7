//! Experts: the same bits whatever the company chooses, and only what a span needs is read, or missed. What families with
//! experts compute is held against transformers in `golden.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::LayerSpan;
use proto::tensor::NumericsClass::{self, Bf16, Exact};
use shard_node_engine::{DeviceChoice, EngineOptions, decode_bytes, load};
use shard_node_weights::{Checkpoint, manifest};
use tempfile::TempDir;

use crate::pipeline::{Part, Pipeline};
use crate::synthetic::Normal;

const MODELS: [&str; 2] = ["qwen3-moe", "mixtral"];
const LENGTH: usize = 48;
const VOCAB: u32 = 128;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// An HF directory with the weights in one file.
fn directory(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (from, to) in [("config.json", "config.json"), ("own.safetensors", "model.safetensors")] {
        std::fs::copy(golden(name).join(from), directory.path().join(to)).unwrap();
    }
    directory
}

fn tokens(seed: u64) -> Vec<u32> {
    let mut random = Normal(seed);
    (0..LENGTH).map(|_| random.below(VOCAB)).collect()
}

/// Logits after each token, alone and one token at a time.
fn alone(model: &Path, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut pipeline = Pipeline::load(model, &[(0, 4)], Exact);
    let mut session = pipeline.open(LENGTH as u32);
    tokens.iter().map(|&token| pipeline.feed(&mut session, &[token])).collect()
}

#[test]
fn rows_that_choose_other_experts_change_no_bit() {
    for model in MODELS {
        let kept = directory(model);
        let model = kept.path();
        let all: Vec<Vec<u32>> = (0..20).map(|seed| tokens(100 + seed)).collect();
        let truths: Vec<_> = [0, 7, 19].map(|index| (index, alone(model, &all[index]))).into();
        for cut in [&[(0, 4)][..], &[(0, 1), (1, 4)], &[(0, 2), (2, 3), (3, 4)]] {
            let mut pipeline = Pipeline::load(model, cut, Exact);
            let mut sessions: Vec<_> = all.iter().map(|_| pipeline.open(LENGTH as u32)).collect();
            let mut random = Normal(cut.len() as u64);
            // Decode rows and prefill chunks mixed: up to 20 x 12 rows in a step, in turning order.
            while sessions.iter().any(|session| (session.length as usize) < LENGTH) {
                let mut parts: Vec<(usize, Part<'_>)> = vec![];
                for (index, session) in sessions.iter_mut().enumerate() {
                    let at = session.length as usize;
                    let rows = if random.below(3) == 0 { 1 + random.below(12) as usize } else { 1 };
                    let end = (at + rows).min(LENGTH);
                    if at < end {
                        parts.push((index, Part { session, tokens: &all[index][at..end] }));
                    }
                }
                let turn = random.below(parts.len() as u32) as usize;
                parts.rotate_left(turn);
                let (order, mut parts): (Vec<usize>, Vec<Part<'_>>) = parts.into_iter().unzip();
                let logits = pipeline.step(&mut parts);
                for (row, index) in order.into_iter().enumerate() {
                    let end = parts[row].session.length as usize;
                    if let Some((_, truth)) = truths.iter().find(|(watched, _)| *watched == index) {
                        assert_eq!(logits[row], truth[end - 1], "{cut:?}, session {index}, row {end}");
                    }
                }
            }
        }
    }
}

fn options(model: &Path, (start, end): (u32, u32), class: NumericsClass) -> EngineOptions {
    EngineOptions {
        model: model.to_owned(),
        manifest: None,
        span: LayerSpan::new(start, end).unwrap(),
        class,
        device: DeviceChoice::Cpu,
        threads: Some(1),
    }
}

/// A copy of a golden whose safetensors header has gone through `change`, which keeps its length.
fn with_header(name: &str, change: impl FnOnce(String) -> String) -> TempDir {
    let copy = directory(name);
    let path = copy.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = change(String::from_utf8(bytes[8..end].to_vec()).unwrap());
    assert_eq!(header.len(), end - 8);
    std::fs::write(path, [&bytes[..8], header.as_bytes(), &bytes[end..]].concat()).unwrap();
    copy
}

#[test]
fn a_missing_expert_is_named_and_matters_only_to_its_span() {
    for (model, lost) in [
        ("qwen3-moe", "model.layers.2.mlp.experts.5.up_proj.weight"),
        ("mixtral", "model.layers.2.block_sparse_moe.experts.5.w3.weight"),
    ] {
        // Into a place that nobody reads, without changing the header's length.
        let copy = with_header(model, |header| {
            assert!(header.contains(lost));
            header.replace(lost, &lost.replace("model.layers.2", "other.layers.2"))
        });
        let error = load(&options(copy.path(), (0, 4), Exact), |_| ()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(lost), "{error}");
        assert!(load(&options(copy.path(), (0, 2), Exact), |_| ()).is_ok(), "other spans load");
    }
}

#[test]
fn an_expert_that_is_not_the_manifests_is_refused_in_both_containers() {
    let expert = "model.layers.1.block_sparse_moe.experts.4.w2.weight";
    // Of a stack the whole is listed, and named.
    for (file, named) in [("model.safetensors", expert), ("model.gguf", "blk.1.ffn_down_exps.weight")] {
        let copy = directory("mixtral");
        std::fs::copy(golden("mixtral/model.gguf"), copy.path().join("model.gguf")).unwrap();
        let path = copy.path().join(file);
        let model = if file == "model.gguf" { path.clone() } else { copy.path().to_owned() };
        let checkpoint = Checkpoint::open(&model).unwrap();
        let manifest = Arc::new(manifest::compute(&checkpoint, |_, _| ()).unwrap().manifest);
        let own = checkpoint.bytes(expert).unwrap().to_vec();
        drop(checkpoint);
        let with_manifest =
            |span| EngineOptions { manifest: Some(manifest.clone()), ..options(&model, span, Bf16) };
        assert!(load(&with_manifest((0, 4)), |_| ()).is_ok(), "{file}: the bytes as they were");
        let mut all = std::fs::read(&path).unwrap();
        let at = all.windows(own.len()).position(|window| window == own).unwrap();
        all[at + own.len() - 2] ^= 1;
        std::fs::write(&path, all).unwrap();
        let error = load(&with_manifest((1, 2)), |_| ()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(named), "{file}: {error}");
        assert!(load(&with_manifest((2, 4)), |_| ()).is_ok(), "{file}: the other layers' bytes are right");
    }
}

#[test]
fn a_decode_step_counts_the_experts_that_a_row_uses() {
    let architecture = Checkpoint::open(&golden("mixtral/model.gguf")).unwrap().architecture().unwrap();
    let span = LayerSpan::new(0, 2).unwrap();
    let attention = 32 * (2 * 4 * 16 + 2 * 2 * 16);
    // Two of six experts in bf16, and the router in f32.
    let layer = 2 * (attention + 2 * 3 * 32 * 24) + 4 * 6 * 32;
    assert_eq!(decode_bytes(&architecture, span, Bf16), 2 * layer);
}
