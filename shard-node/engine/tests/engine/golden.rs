//! Logits against transformers (`golden/make_golden.py`), at every position.

use std::path::{Path, PathBuf};

use proto::tensor::NumericsClass;

use crate::pipeline::Pipeline;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn tokens() -> Vec<u32> {
    serde_json::from_slice(&std::fs::read(golden("tokens.json")).unwrap()).unwrap()
}

/// Logits of transformers, a row for each token.
fn expected(name: &str, rows: usize) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(golden(&format!("{name}.logits"))).unwrap();
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks(values.len() / rows).map(<[f32]>::to_vec).collect()
}

/// The largest difference at any position; positions are reached in chunks, so that prefill counts too.
fn worst(model: &Path, name: &str, class: NumericsClass) -> f32 {
    let tokens = tokens();
    let expected = expected(name, tokens.len());
    let mut pipeline = Pipeline::load(model, &[(0, 1), (1, 3)], class);
    let mut worst = 0f32;
    for chunk in [1, 3, 32] {
        let mut session = pipeline.open(tokens.len() as u32);
        for (index, part) in tokens.chunks(chunk).enumerate() {
            let logits = pipeline.feed(&mut session, part);
            let truth = &expected[index * chunk + part.len() - 1];
            worst = logits.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
        }
        pipeline.close(session);
    }
    worst
}

#[test]
fn exact_logits_are_those_of_transformers() {
    let worst = worst(&golden("tiny-llama"), "tiny-llama", NumericsClass::Exact);
    println!("largest difference from transformers in f32: {worst:e}");
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn stretched_rotary_embeddings_are_those_of_transformers() {
    let joined = tempfile::tempdir().unwrap();
    std::fs::copy(golden("tiny-llama3/config.json"), joined.path().join("config.json")).unwrap();
    std::fs::copy(golden("tiny-llama/model.safetensors"), joined.path().join("model.safetensors")).unwrap();
    let worst = worst(joined.path(), "tiny-llama3", NumericsClass::Exact);
    println!("largest difference from transformers in f32, llama3 rotary: {worst:e}");
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn bf16_logits_stay_near_those_of_transformers() {
    let worst = worst(&golden("tiny-llama"), "tiny-llama", NumericsClass::Bf16);
    println!(
        "largest difference from transformers in bf16: {worst:.4} (logits have a standard deviation of 2)"
    );
    assert!(worst < 0.15, "{worst}");
}
