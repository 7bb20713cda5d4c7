//! What `config.json` and GGUF metadata mean for each family, and what is refused by name.

use proto::manifest::{Architecture, RopeScaling, SlidingWindow};
use serde_json::{Value, json};

use super::{tiny_config, write_tiny};
use crate::architecture::{Reading, families};
use crate::{Checkpoint, span_tensors};

/// The reading of the tiny llama's configuration with some members changed.
fn reading(changes: Value) -> Reading {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut config = tiny_config();
    let Value::Object(changes) = changes else { panic!("{changes}") };
    config.as_object_mut().unwrap().extend(changes);
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    Checkpoint::open(directory.path()).unwrap().read_architecture().unwrap()
}

fn architecture(changes: Value) -> Architecture {
    let reading = reading(changes);
    assert_eq!(reading.unsupported, Vec::<String>::new());
    reading.architecture
}

fn refused(changes: Value) -> String {
    reading(changes).unsupported.join(", ")
}

#[test]
fn a_mistrals_window_is_a_window_and_not_a_shorter_context() {
    let mistral = architecture(json!({"model_type": "mistral", "sliding_window": 32}));
    assert_eq!(mistral.window, Some(SlidingWindow { width: 32, global_every: None }));
    assert_eq!(mistral.context, 64);
    assert_eq!(architecture(json!({"model_type": "mistral", "sliding_window": null})).window, None);
    // `MistralConfig` has a window where the file says nothing, `LlamaConfig` never has one.
    assert_eq!(architecture(json!({"model_type": "mistral"})).window.unwrap().width, 4096);
    assert_eq!(architecture(json!({"sliding_window": 32})).window, None);
}

#[test]
fn yarns_numbers_have_the_references_defaults() {
    let yarn = |rope: Value| match architecture(json!({"rope_scaling": rope})).rope_scaling {
        Some(RopeScaling::Yarn {
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
            original_context,
            ..
        }) => (beta_fast, beta_slow, attention_factor, truncate, original_context),
        other => panic!("{other:?}"),
    };
    let plain = 0.1 * 4f64.ln() + 1.0;
    assert_eq!(yarn(json!({"type": "yarn", "factor": 4.0})), (32.0, 1.0, plain, true, 64));
    let given = yarn(json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8.0,
        "beta_slow": 2.0, "attention_factor": 0.5, "truncate": false,
    }));
    assert_eq!(given, (8.0, 2.0, 0.5, false, 16));
    let (_, _, scaled, ..) =
        yarn(json!({"rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 1.0}));
    assert!((scaled - (0.2 * 4f64.ln() + 1.0) / plain).abs() < 1e-12);
}

#[test]
fn qwens_windows_count_only_where_they_are_switched_on() {
    let qwen = |changes: Value| {
        let mut config = json!({"model_type": "qwen2", "sliding_window": 32, "num_hidden_layers": 1});
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let mut reading = reading(config);
        reading.unsupported.retain(|part| !part.contains("biases"));
        (reading.architecture.window, reading.unsupported.join(", "))
    };
    let all = Some(SlidingWindow { width: 32, global_every: None });
    assert_eq!(qwen(json!({})), (None, String::new()));
    assert_eq!(qwen(json!({"use_sliding_window": true, "max_window_layers": 1})), (None, String::new()));
    assert_eq!(qwen(json!({"use_sliding_window": true, "max_window_layers": 0})), (all, String::new()));
    let (window, unsupported) =
        qwen(json!({"use_sliding_window": true, "max_window_layers": 1, "num_hidden_layers": 3}));
    assert!(window.is_none() && unsupported.contains("max_window_layers 1 of 3"), "{unsupported}");
    let listed = json!({"use_sliding_window": true, "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"]});
    assert_eq!(qwen(listed), (Some(SlidingWindow { width: 32, global_every: Some(2) }), String::new()));
}

#[test]
fn gemmas_numbers_are_read_from_old_and_new_files_alike() {
    let gemma = |changes: Value| {
        let mut config = json!({
            "model_type": "gemma3_text", "hidden_act": null, "hidden_activation": "gelu_pytorch_tanh",
            "head_dim": 4, "sliding_window": 16, "num_hidden_layers": 6, "rope_theta": null,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        architecture(config)
    };
    let old = gemma(json!({
        "sliding_window_pattern": 3, "rope_local_base_freq": 500.0, "query_pre_attn_scalar": 9,
        "rope_theta": 7000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }));
    let new = gemma(json!({
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention",
            "sliding_attention", "sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 9,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 7000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    }));
    assert_eq!(old, new);
    assert_eq!(old.window, Some(SlidingWindow { width: 16, global_every: Some(3) }));
    assert_eq!((old.rope_theta, old.local_rope_theta, old.query_scalar), (7000.0, Some(500.0), Some(9.0)));
    let bare = gemma(json!({}));
    assert_eq!(bare.window.unwrap().global_every, Some(6));
    assert_eq!((bare.rope_theta, bare.local_rope_theta), (1_000_000.0, Some(10_000.0)));
    assert_eq!(bare.query_scalar, Some(256.0));
    let with_images = gemma(json!({"model_type": "gemma3", "text_config": {
        "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "sliding_window": 16,
    }}));
    assert_eq!((with_images.heads, with_images.head_dim, with_images.vocab), (8, 256, 262_208));
}

#[test]
fn what_a_family_does_not_compute_is_refused_by_name() {
    let gemma = |key: &str, value: Value| {
        let mut config = json!({"model_type": "gemma3_text", "hidden_act": null, "head_dim": 4});
        config[key] = value;
        refused(config)
    };
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        assert!(gemma(key, json!(30.0)).contains(key));
    }
    assert!(gemma("use_bidirectional_attention", json!(true)).contains("use_bidirectional_attention"));
    assert!(gemma("hidden_activation", json!("silu")).contains("silu"));
    let kinds = gemma("layer_types", json!(["chunked_attention"]));
    assert!(kinds.contains("chunked_attention"), "{kinds}");
    let kinds = gemma("layer_types", json!(["full_attention", "sliding_attention"]));
    assert!(kinds.contains("layer_types for 2 layers"), "{kinds}");
    assert!(refused(json!({"model_type": "qwen3", "attention_bias": true})).contains("attention_bias"));
    assert!(refused(json!({"rope_parameters": {"partial_rotary_factor": 0.5}})).contains("partial_rotary"));
    // A tensor of the layers that a llama does not have.
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut tensors = super::tiny_tensors();
    for name in ["self_attn.q_norm.weight", "self_attn.q_proj.bias", "mlp.more.weight"] {
        tensors.push((format!("model.layers.0.{name}"), vec![4], vec![0; 16]));
    }
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), vec![4], vec![0; 16]));
    tensors.push(("model.layers.7.mlp.more.weight".to_owned(), vec![4], vec![0; 16]));
    let listed: Vec<_> =
        tensors.iter().map(|(name, shape, bytes)| (&**name, "F32", &**shape, bytes.clone())).collect();
    std::fs::write(directory.path().join("model.safetensors"), super::safetensors(&listed)).unwrap();
    let reading = Checkpoint::open(directory.path()).unwrap().read_architecture().unwrap();
    let layer = |name: &str| format!("(model.layers.0.{name})");
    assert_eq!(
        reading.unsupported,
        [
            format!("biases {}", layer("self_attn.q_proj.bias")),
            format!("norms of q and k {}", layer("self_attn.q_norm.weight")),
            format!("parts of another family {}", layer("mlp.more.weight")),
        ]
    );
}

#[test]
fn an_unknown_family_is_told_which_are_known() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut config = tiny_config();
    config["model_type"] = json!("mamba");
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap().architecture().unwrap_err().to_string();
    assert!(error.contains("mamba"), "{error}");
    for family in families() {
        assert!(error.contains(family), "{error}");
    }
}

#[test]
fn every_family_demands_every_part_once_and_stands_in_the_readme() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    for family in families() {
        let mut a = architecture(json!({}));
        family.clone_into(&mut a.family);
        let names: Vec<String> = span_tensors(&a, proto::LayerSpan::new(0, 1).unwrap())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{family}");
        assert!(readme.contains(&format!("| {family} |")), "{family} is not in the table of families");
    }
}
