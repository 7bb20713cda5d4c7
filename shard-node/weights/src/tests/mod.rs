//! Tests of the whole crate on files, and builders of small ones.

mod absurd;
mod errors;
mod experts;
mod families;
mod fits;
mod goldens;
mod hostile;
mod manifests;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The committed goldens, made by `golden/make_golden.py`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A safetensors file: each tensor is (name, dtype, shape, bytes).
pub(crate) fn safetensors(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let start = body.len();
        body.extend_from_slice(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, body.len()]});
        header.insert((*name).to_owned(), entry);
    }
    with_header(&Value::Object(header).to_string(), &body)
}

/// A safetensors file with that header.
pub(crate) fn with_header(header: &str, body: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(body);
    file
}

/// `config.json` of a llama of one layer that fits [`tiny_tensors`].
pub(crate) fn tiny_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 10,
        "max_position_embeddings": 64, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2
    })
}

/// Tensors of that llama, with made-up F32 values.
pub(crate) fn tiny_tensors() -> Vec<(String, Vec<u64>, Vec<u8>)> {
    let span = proto::LayerSpan::new(0, 1).unwrap();
    let architecture = proto::manifest::Architecture {
        family: "llama".to_owned(),
        n_layers: 1,
        hidden: 8,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 12,
        vocab: 10,
        context: 64,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tied_head: true,
        window: None,
        local_rope_theta: None,
        query_scalar: None,
        experts: None,
    };
    let fill = |(at, (name, shape)): (usize, (String, Vec<u64>))| {
        let count = shape.iter().product::<u64>();
        let bytes = (0..count).flat_map(|i| (i as f32 + at as f32 * 1000.0).to_le_bytes()).collect();
        (name, shape, bytes)
    };
    crate::span_tensors(&architecture, span).into_iter().enumerate().map(fill).collect()
}

/// Writes an HF directory of that llama.
pub(crate) fn write_tiny(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("config.json"), tiny_config().to_string()).unwrap();
    let tensors = tiny_tensors();
    let listed: Vec<_> =
        tensors.iter().map(|(name, shape, bytes)| (&**name, "F32", &**shape, bytes.clone())).collect();
    std::fs::write(directory.join("model.safetensors"), safetensors(&listed)).unwrap();
}
