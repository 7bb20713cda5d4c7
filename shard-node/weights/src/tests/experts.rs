//! Experts in both containers: what is read of them, and what is refused.

use std::path::{Path, PathBuf};

use proto::LayerSpan;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{safetensors, tiny_config};
use crate::manifest::{compute, verify};
use crate::{Checkpoint, inspect, span_tensors};

const HIDDEN: u64 = 8;
const FFN: u64 = 6;

fn config(family: &str) -> Value {
    let mut config = tiny_config();
    let extra = json!({
        "model_type": family, "head_dim": 4, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": FFN, "norm_topk_prob": true,
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    if family == "mixtral" {
        config["intermediate_size"] = json!(FFN);
    }
    config
}

/// An HF directory with that config and no weights.
fn directory(config: &Value) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(directory.path().join("model.safetensors"), safetensors(&[])).unwrap();
    directory
}

fn refusal(config: &Value) -> String {
    Checkpoint::open(directory(config).path()).unwrap().architecture().unwrap_err().to_string()
}

#[test]
fn both_families_name_their_experts_as_published() {
    for (family, expert) in [
        ("qwen3_moe", "model.layers.0.mlp.experts.3.down_proj.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.3.w2.weight"),
    ] {
        let directory = directory(&config(family));
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        let architecture = checkpoint.architecture().unwrap();
        let experts = architecture.experts.unwrap();
        assert_eq!((experts.count, experts.used, u64::from(experts.ffn)), (4, 2, FFN));
        let tensors = span_tensors(&architecture, LayerSpan::new(0, 1).unwrap());
        assert_eq!(tensors.iter().filter(|(name, _)| name.contains(".experts.")).count(), 12, "{family}");
        assert!(tensors.contains(&(expert.to_owned(), vec![HIDDEN, FFN])), "{family}");
        assert!(!tensors.iter().any(|(name, _)| name.contains("mlp.gate_proj")), "{family}");
    }
}

#[test]
fn absurd_or_unsupported_experts_are_refused_by_name() {
    let cases: [(&str, &str, Value, &str); 9] = [
        ("qwen3_moe", "num_experts", json!(0), "num_experts"),
        ("qwen3_moe", "num_experts", json!(1_000_000), "num_experts"),
        ("mixtral", "num_local_experts", json!(0), "num_local_experts"),
        ("mixtral", "num_local_experts", json!(4_000_000_000_u64), "num_local_experts"),
        ("qwen3_moe", "num_experts_per_tok", json!(5), "num_experts_per_tok"),
        ("mixtral", "num_experts_per_tok", json!(0), "num_experts_per_tok"),
        ("qwen3_moe", "moe_intermediate_size", json!(0), "experts"),
        ("qwen3_moe", "mlp_only_layers", json!([0]), "mlp_only_layers"),
        ("qwen3_moe", "decoder_sparse_step", json!(2), "decoder_sparse_step"),
    ];
    for (family, field, value, named) in cases {
        let mut config = config(family);
        config[field] = value.clone();
        let error = refusal(&config);
        assert!(error.contains(named), "{field} {value}: {error}");
    }
    // Names without end: each layer's are few enough, all layers' are not.
    let mut config = config("qwen3_moe");
    config["num_experts"] = json!(4096);
    config["num_hidden_layers"] = json!(1000);
    assert!(refusal(&config).contains("num_experts"));
}

/// Tensors of a GGUF: name, dimensions outermost first; all F32, value `i` of tensor `t` is `1000 t + i`.
fn gguf(metadata: &[(&str, u32)], tensors: &[(&str, &[u64])]) -> (TempDir, PathBuf) {
    let string = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64 + 2).to_le_bytes());
    string(&mut file, "general.architecture");
    file.extend(8u32.to_le_bytes());
    string(&mut file, "qwen3moe");
    string(&mut file, "qwen3moe.attention.layer_norm_rms_epsilon");
    file.extend(6u32.to_le_bytes());
    file.extend(1e-5f32.to_le_bytes());
    for (key, value) in metadata {
        string(&mut file, &format!("qwen3moe.{key}"));
        file.extend(4u32.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    let mut offset = 0u64;
    for (name, shape) in tensors {
        string(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        for dim in shape.iter().rev() {
            file.extend(dim.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += (shape.iter().product::<u64>() * 4).next_multiple_of(32);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    for (at, (_, shape)) in tensors.iter().enumerate() {
        let values = 0..shape.iter().product::<u64>();
        file.extend(values.flat_map(|i| (i as f32 + at as f32 * 1000.0).to_le_bytes()));
        file.resize(file.len().next_multiple_of(32), 0);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    std::fs::write(&path, file).unwrap();
    (directory, path)
}

const METADATA: [(&str, u32); 12] = [
    ("block_count", 1),
    ("context_length", 64),
    ("embedding_length", 8),
    ("feed_forward_length", 12),
    ("attention.head_count", 2),
    ("attention.head_count_kv", 1),
    ("attention.key_length", 4),
    ("attention.value_length", 4),
    ("vocab_size", 10),
    ("expert_count", 4),
    ("expert_used_count", 2),
    ("expert_feed_forward_length", 6),
];

const TENSORS: [(&str, &[u64]); 15] = [
    ("token_embd.weight", &[10, 8]),
    ("output.weight", &[10, 8]),
    ("output_norm.weight", &[8]),
    ("blk.0.attn_norm.weight", &[8]),
    ("blk.0.attn_q.weight", &[8, 8]),
    ("blk.0.attn_k.weight", &[4, 8]),
    ("blk.0.attn_v.weight", &[4, 8]),
    ("blk.0.attn_q_norm.weight", &[4]),
    ("blk.0.attn_k_norm.weight", &[4]),
    ("blk.0.attn_output.weight", &[8, 8]),
    ("blk.0.ffn_norm.weight", &[8]),
    ("blk.0.ffn_gate_inp.weight", &[4, 8]),
    ("blk.0.ffn_gate_exps.weight", &[4, 6, 8]),
    ("blk.0.ffn_up_exps.weight", &[4, 6, 8]),
    ("blk.0.ffn_down_exps.weight", &[4, 8, 6]),
];

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

#[test]
fn a_stack_is_read_expert_by_expert_and_listed_whole() {
    let (_kept, path) = gguf(&METADATA, &TENSORS);
    let checkpoint = open(&path);
    let architecture = checkpoint.architecture().unwrap();
    assert_eq!(architecture.family, "qwen3_moe");
    checkpoint.check_span(&architecture, LayerSpan::new(0, 1).unwrap()).unwrap();
    let expert = "model.layers.0.mlp.experts.2.up_proj.weight";
    assert_eq!(checkpoint.rows::<f32>(expert, 1..2).unwrap()[0], 13_000.0 + (2.0 * 6.0 + 1.0) * 8.0);
    assert!(checkpoint.tensor(expert).unwrap().is_sliced());

    let shown = inspect(&checkpoint).unwrap();
    assert_eq!(shown.unsupported, Vec::<String>::new());
    assert_eq!(shown.tensors["F32"], TENSORS.len() as u64, "a stack is one tensor");
    let values: u64 = TENSORS.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum();
    assert_eq!((shown.parameters, shown.stored_bytes), (values, 4 * values));
    let layer: u64 = TENSORS[3..].iter().map(|(_, shape)| 4 * shape.iter().product::<u64>()).sum();
    assert_eq!(shown.layer_bytes, [layer]);

    let manifest = compute(&checkpoint, |_, _| {}).unwrap().manifest;
    assert_eq!(manifest.tensors.len(), TENSORS.len());
    verify(&manifest, &checkpoint, expert).unwrap();
    drop(checkpoint);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = open(&path);
    let changed = "model.layers.0.mlp.experts.0.down_proj.weight";
    let error = verify(&manifest, &checkpoint, changed).unwrap_err().to_string();
    assert!(error.contains(changed), "a stack is one hash: {error}");
    verify(&manifest, &checkpoint, expert).unwrap();
}

#[test]
fn stacks_of_other_experts_than_the_metadata_say_are_refused_by_name() {
    for (count, named) in [(3, "experts.3.gate_proj"), (5, "experts.4.gate_proj")] {
        let mut tensors = TENSORS;
        let shape = [count, 6, 8];
        tensors[12].1 = &shape;
        let (_kept, path) = gguf(&METADATA, &tensors);
        let shown = inspect(&open(&path)).unwrap();
        assert!(shown.unsupported.iter().any(|part| part.contains(named)), "{:?}", shown.unsupported);
    }
}

#[test]
fn experts_in_a_layout_that_is_not_read_are_named() {
    for name in ["blk.0.ffn_gate.3.weight", "blk.0.ffn_up_shexp.weight", "blk.0.exp_probs_b.bias"] {
        let mut tensors = TENSORS.to_vec();
        tensors.push((name, &[6, 8]));
        let (_kept, path) = gguf(&METADATA, &tensors);
        let error = open(&path).architecture().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn absurd_stacks_are_refused_before_they_become_names() {
    let shapes: [&[u64]; 4] = [&[4, 48], &[0, 6, 8], &[1_000_000, 0, 8], &[1 << 40, 0, 0]];
    for shape in shapes {
        let mut tensors = TENSORS;
        tensors[12].1 = shape;
        let (_kept, path) = gguf(&METADATA, &tensors);
        let error = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(error.contains("blk.0.ffn_gate_exps.weight"), "{shape:?}: {error}");
    }
    // Empty stacks cost a file nothing; 40 x 4096 names are too many all the same.
    let names: Vec<String> = (0..40).map(|layer| format!("blk.{layer}.ffn_up_exps.weight")).collect();
    let stacks: Vec<(&str, &[u64])> = names.iter().map(|name| (&**name, &[4096, 0, 8][..])).collect();
    let (_kept, path) = gguf(&METADATA, &stacks);
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("number of tensors"), "{error}");
}

#[test]
fn absurd_numbers_of_experts_in_a_gguf_are_refused_by_key() {
    for (key, value) in [("expert_count", 1_000_000), ("expert_used_count", 5), ("expert_used_count", 0)] {
        let mut metadata = METADATA;
        metadata.iter_mut().find(|(name, _)| *name == key).unwrap().1 = value;
        let (_kept, path) = gguf(&metadata, &TENSORS);
        let error = open(&path).architecture().unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
