//! The toy model as nodes serve it: a manifest and a tokenizer of words.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::ContentHash;
use proto::manifest::{Architecture, Manifest, TokenizerEntry};
use shard_node::node::ServedModel;
use shard_node_stage::ToyModel;

/// A toy model as nodes serve it.
pub fn served(model: ToyModel, eos: &[u32], tokenizer: Option<&str>) -> ServedModel {
    let tokenizer = tokenizer.map(|text| Bytes::copy_from_slice(text.as_bytes()));
    let manifest = Manifest {
        format: 1,
        architecture: Architecture {
            family: "toy".into(),
            n_layers: model.n_layers,
            hidden: 8,
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            ffn: 8,
            vocab: model.vocab,
            context: model.context,
            norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tied_head: true,
            window: None,
            local_rope_theta: None,
            query_scalar: None,
            experts: None,
        },
        quantisation: "F32".into(),
        container: "safetensors".into(),
        bos: None,
        add_bos: false,
        eos: eos.to_vec(),
        tokenizer: tokenizer
            .as_ref()
            .map(|bytes| TokenizerEntry { blake3: ContentHash::of(bytes), bytes: bytes.len() as u64 }),
        chat_template: None,
        licence: None,
        tensors: Vec::new(),
    };
    ServedModel { name: "toy".into(), manifest: manifest.to_bytes().into(), tokenizer }
}

/// A tokenizer whose token `i` is the word `w<i>`; words are joined by spaces.
pub fn word_tokenizer(vocab: u32) -> String {
    let words: BTreeMap<String, u32> = (0..vocab).map(|id| (format!("w{id}"), id)).collect();
    serde_json::json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    })
    .to_string()
}
