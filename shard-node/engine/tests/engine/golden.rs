//! Every family and variant against transformers (`golden/make_golden*.py`): logits at every position,
//! greedy tokens, and the same bits from the GGUF of the same model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto::tensor::NumericsClass;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::pipeline::Pipeline;

/// The models made by the scripts.
const VARIANTS: [&str; 10] = [
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "mistral-window",
    "qwen2",
    "qwen3",
    "gemma3",
    "qwen3-moe",
    "qwen3-moe-plain",
    "mixtral",
];

/// Those that share no matrices with the others.
const WITH_EXPERTS: [&str; 3] = ["qwen3-moe", "qwen3-moe-plain", "mixtral"];

const CUTS: [&[(u32, u32)]; 3] = [&[(0, 4)], &[(0, 1), (1, 4)], &[(0, 2), (2, 3), (3, 4)]];

/// Length of the prompt that the greedy tokens follow.
const PROMPT: usize = 32;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

fn tokens(name: &str) -> Vec<u32> {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// Logits of transformers, a row for each token.
fn expected(variant: &str, rows: usize) -> Vec<Vec<f32>> {
    let bytes = std::fs::read(golden(variant).join("logits")).unwrap();
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values.chunks(values.len() / rows).map(<[f32]>::to_vec).collect()
}

/// An HF directory of shared and own tensors, with an index.
fn directory(variant: &str) -> TempDir {
    let joined = tempfile::tempdir().unwrap();
    let mut weight_map = BTreeMap::new();
    let files = [
        (golden(variant).join("own.safetensors"), "b.safetensors"),
        (golden("matrices.safetensors"), "a.safetensors"),
    ];
    let files = if WITH_EXPERTS.contains(&variant) { &files[..1] } else { &files[..] };
    for &(ref stored, file) in files {
        let bytes = std::fs::read(stored).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..end]).unwrap();
        weight_map.extend(header.into_keys().filter(|name| name != "__metadata__").map(|name| (name, file)));
        std::fs::write(joined.path().join(file), bytes).unwrap();
    }
    let index = json!({ "weight_map": weight_map }).to_string();
    std::fs::write(joined.path().join("model.safetensors.index.json"), index).unwrap();
    std::fs::copy(golden(variant).join("config.json"), joined.path().join("config.json")).unwrap();
    joined
}

/// Logits at every position, reached in chunks of that many rows; `None` between the ends of chunks.
fn run(pipeline: &mut Pipeline, tokens: &[u32], chunk: usize) -> Vec<Option<Vec<f32>>> {
    let mut session = pipeline.open(tokens.len() as u32);
    let mut logits = vec![None; tokens.len()];
    for (index, part) in tokens.chunks(chunk).enumerate() {
        logits[index * chunk + part.len() - 1] = Some(pipeline.feed(&mut session, part));
    }
    pipeline.close(session);
    logits
}

/// The largest difference at any position reached, with prefill and decode.
fn worst(pipeline: &mut Pipeline, variant: &str) -> f32 {
    let tokens = tokens("tokens.json");
    let expected = expected(variant, tokens.len());
    let mut worst = 0f32;
    for chunk in [1, 7, 40] {
        for (logits, truth) in run(pipeline, &tokens, chunk).iter().zip(&expected) {
            let differences = logits.iter().flatten().zip(truth).map(|(a, b)| (a - b).abs());
            worst = differences.fold(worst, f32::max);
        }
    }
    worst
}

#[test]
fn exact_logits_are_those_of_transformers_over_one_two_and_three_stages() {
    for variant in VARIANTS {
        let directory = directory(variant);
        for cut in CUTS {
            let mut pipeline = Pipeline::load(directory.path(), cut, NumericsClass::Exact);
            let worst = worst(&mut pipeline, variant);
            println!("{variant} over {} stages: {worst:.1e} from transformers in f32", cut.len());
            assert!(worst < 1e-4, "{variant} {cut:?}: {worst}");
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers_over_one_two_and_three_stages() {
    let prompt = tokens("tokens.json");
    for variant in VARIANTS {
        let directory = directory(variant);
        let expected = tokens(&format!("{variant}/greedy.json"));
        assert_eq!(expected.len(), 64);
        for cut in CUTS {
            let mut pipeline = Pipeline::load(directory.path(), cut, NumericsClass::Exact);
            assert_eq!(pipeline.greedy(&prompt[..PROMPT], 64, &[]), expected, "{variant} {cut:?}");
        }
    }
}

/// Rounding is amplified by attention this sharp, in any implementation: theirs is the measure of ours. Where it makes a
/// router choose another expert a row jumps, in theirs and in ours at other places; there the middle row is measured.
#[test]
fn bf16_is_as_near_to_f32_as_transformers_own() {
    let tokens = tokens("tokens.json");
    for variant in VARIANTS {
        let directory = directory(variant);
        let truth = expected(variant, tokens.len());
        let theirs: f64 =
            serde_json::from_slice(&std::fs::read(golden(variant).join("bf16.json")).unwrap()).unwrap();
        let mut pipeline = Pipeline::load(directory.path(), CUTS[1], NumericsClass::Bf16);
        let jumps = WITH_EXPERTS.contains(&variant);
        // More rows where single ones do not count.
        for chunk in [1, if jumps { 9 } else { 24 }] {
            let logits = run(&mut pipeline, &tokens, chunk);
            let pairs =
                logits.iter().zip(&truth).filter_map(|(logits, truth)| Some((logits.as_ref()?, truth)));
            let mut rows: Vec<f64> = pairs.map(|(logits, truth)| mean_square(logits, truth)).collect();
            rows.sort_by(f64::total_cmp);
            let mean =
                if jumps { rows[rows.len() / 2] } else { rows.iter().sum::<f64>() / rows.len() as f64 };
            let ours = mean.sqrt();
            println!("{variant} in bf16, chunks of {chunk}: {ours:.4}, transformers {theirs:.4}");
            assert!(ours < 1.5 * theirs, "{variant}: {ours}, transformers {theirs}");
        }
    }
}

/// Of the differences.
fn mean_square(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
}

#[test]
fn ggufs_give_the_bits_of_their_hf_directories() {
    let tokens = tokens("tokens.json");
    for variant in VARIANTS {
        let directory = directory(variant);
        let truth = run(&mut Pipeline::load(directory.path(), CUTS[0], NumericsClass::Exact), &tokens, 1);
        let gguf = golden(variant).join("model.gguf");
        let mut pipeline = Pipeline::load(&gguf, CUTS[1], NumericsClass::Exact);
        assert_eq!(run(&mut pipeline, &tokens, 1), truth, "{variant}");
    }
}

#[test]
fn no_two_variants_agree() {
    // What one variant has and another lacks must show, or the comparisons above show nothing.
    let last = |variant: &&str| expected(variant, 96).remove(95);
    let variants: Vec<&str> = VARIANTS.to_vec();
    for (index, one) in variants.iter().enumerate() {
        for other in &variants[..index] {
            let differences = last(one).into_iter().zip(last(other)).map(|(a, b)| (a - b).abs());
            assert!(differences.fold(0f32, f32::max) > 1e-2, "{one} and {other}");
        }
    }
}
