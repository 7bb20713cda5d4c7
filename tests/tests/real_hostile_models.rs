//! Models made to do harm, given to the real programs: each is refused by name, soon, and within an address space that
//! would not hold what it claims.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::processes::Programs;
use serde_json::{Map, Value, json};

/// The programs' own time is well below a second; the machine may be busy with other tests.
const SOON: Duration = Duration::from_secs(30);
/// The largest file below has 60 MB.
const ADDRESS_SPACE_KIB: u64 = 1 << 20;
const UP: &str = "model.layers.1.mlp.up_proj.weight";

/// `inspect` within [`ADDRESS_SPACE_KIB`]: it must fail, and its last words hold all of `words`.
fn inspect_refuses(programs: &Programs, home: &Path, model: &Path, words: &[&str]) {
    let usual = programs.command("shard-node", home);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {ADDRESS_SPACE_KIB}; exec \"$@\""), "sh"]);
    command.arg(usual.get_program()).args(["inspect"]).arg(model);
    for (name, value) in usual.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let (start, output) = (now(), command.output().unwrap());
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("memory allocation"), "{said}");
    assert!(took < SOON, "{took:?}");
}

/// `serve` must fail, and its last words hold all of `words`.
fn serve_refuses(programs: &Programs, home: &Path, model: &Path, words: &[&str]) {
    let model = model.display().to_string();
    let state = home.join("state").display().to_string();
    let own = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state-dir", &state];
    let all = [&["serve", "--model", &model][..], &own].concat();
    let finished = programs.run("shard-node", home, &all, SOON).unwrap();
    assert!(!finished.status.success(), "it serves: {}", finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "no {word:?} in: {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn now() -> Instant {
    Instant::now()
}

/// A llama of two layers in the HF layout; `spoil` may change a tensor's shape and values.
fn write_llama(directory: &Path, spoil: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>)) -> PathBuf {
    let (hidden, ffn, vocab) = (32, 48, 64);
    let config = json!({
        "model_type": "llama", "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "vocab_size": vocab, "max_position_embeddings": 64, "tie_word_embeddings": true
    });
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..2 {
        for (part, shape) in [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![hidden / 2, hidden]),
            ("self_attn.v_proj", vec![hidden / 2, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![ffn, hidden]),
            ("mlp.up_proj", vec![ffn, hidden]),
            ("mlp.down_proj", vec![hidden, ffn]),
        ] {
            tensors.push((format!("model.layers.{layer}.{part}.weight"), shape));
        }
    }
    let (mut header, mut body) = (Map::new(), Vec::new());
    for (name, mut shape) in tensors {
        let mut values = vec![0.01; shape.iter().product()];
        spoil(&name, &mut shape, &mut values);
        let start = body.len();
        body.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, body.len()]}));
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &body].concat();
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("model.safetensors"), file).unwrap();
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    directory.to_owned()
}

#[test]
fn hostile_models_are_refused_by_name_within_bounded_time_and_memory() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let refuses = |model: &Path, words: &[&str]| inspect_refuses(&programs, home, model, words);
    let llama = |name: &str| write_llama(&home.join(name), |_, _, _| {});

    let mamba = llama("mamba");
    let config = json!({"model_type": "mamba2", "num_heads": 128, "state_size": 128, "vocab_size": 64});
    std::fs::write(mamba.join("config.json"), config.to_string()).unwrap();
    refuses(&mamba, &["model_type \"mamba2\"", "llama"]);

    let gptq = llama("gptq");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(gptq.join("config.json")).unwrap()).unwrap();
    config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
    std::fs::write(gptq.join("config.json"), config.to_string()).unwrap();
    refuses(&gptq, &["quantization_config \"gptq\"", "GGUF", "Q4_K"]);

    let merges = llama("merges");
    let mut tokenizer = String::from(r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":["a a""#);
    tokenizer.push_str(&r#","a a""#.repeat(9_999_999));
    tokenizer.push_str("]}}");
    std::fs::write(merges.join("tokenizer.json"), tokenizer).unwrap();
    refuses(&merges, &["merges/tokenizer.json", "10000000 merges"]);

    let zeros = llama("zeros");
    std::fs::write(zeros.join("config.json"), format!("[{}0]", "0,".repeat(4_000_000))).unwrap();
    // 8,000,003 bytes: below the limit on those.
    refuses(&zeros, &["config.json", "4000002 values"]);

    let header = llama("header");
    std::fs::write(header.join("model.safetensors"), [&(1_u64 << 63).to_le_bytes()[..], b"{}"].concat())
        .unwrap();
    refuses(&header, &["model.safetensors", "9223372036854775808"]);

    let outside = llama("outside");
    let index = json!({"weight_map": {UP: "../merges/model.safetensors"}});
    std::fs::write(outside.join("model.safetensors.index.json"), index.to_string()).unwrap();
    refuses(&outside, &["model.safetensors.index.json", "../merges"]);

    let gguf = |name: &str, tail: &[u8]| {
        let path = home.join(name);
        // Version 3, no tensors, one metadata entry `a`, an array.
        let start =
            [&b"GGUF\x03\0\0\0"[..], &[0; 8], &1_u64.to_le_bytes(), &1_u64.to_le_bytes(), b"a\x09\0\0\0"];
        std::fs::write(&path, [&start.concat(), tail, &[0; 64]].concat()).unwrap();
        path
    };
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    refuses(&gguf("array.gguf", &array(10, 1 << 60)), &["array.gguf", "1152921504606846976"]);
    refuses(&gguf("nested.gguf", &array(9, 1)), &["nested.gguf", "nested metadata array"]);
}

#[test]
fn weights_that_would_spoil_every_token_are_refused_by_tensor() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let home = home.path();
    let nan = write_llama(&home.join("nan"), |name, _, values| {
        if name == UP {
            values[2 * 32 + 7] = f32::NAN;
        }
    });
    serve_refuses(&programs, home, &nan, &[UP, "NaN in row 2, column 7", "model.safetensors"]);
    let shape = write_llama(&home.join("shape"), |name, shape, _| {
        if name == UP {
            shape.reverse();
        }
    });
    serve_refuses(&programs, home, &shape, &[UP, "[32, 48]", "[48, 32]"]);
}

#[test]
fn inspect_says_what_a_machine_holds() {
    let (programs, home) = (Programs::built().unwrap(), tempfile::tempdir().unwrap());
    let model = programs.model().unwrap().display().to_string();
    let arguments = ["inspect", &model, "--memory", "600M", "--sessions", "2", "--context", "4096", "--json"];
    let finished = programs.run("shard-node", home.path(), &arguments, SOON).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
    let object: Value = serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&object["layers"], &object["licence"]), (&json!(30), &json!("apache-2.0")), "{object}");
    assert_eq!(object["quantisation"], json!("Q4_1"));
    assert!(
        object["model_id"].is_string() && object["parameters"].as_u64().unwrap() > 130_000_000,
        "{object}"
    );
    let classes: Vec<&str> =
        object["classes"].as_array().unwrap().iter().map(|c| c["class"].as_str().unwrap()).collect();
    assert_eq!(classes, ["exact", "bf16", "int8", "int4", "bf16-kv8", "int8-kv8", "int4-kv8"]);
    let fits = object["memory"]["fits"].as_array().unwrap();
    let middle = |at: usize| fits[at]["middle"].as_u64().unwrap();
    assert!(middle(0) < middle(1) && middle(1) <= middle(3), "{object}");
    assert!(fits[0]["machines"].as_u64().unwrap() > 1 || fits[0]["machines"].is_null(), "{object}");
    let quick =
        programs.run("shard-node", home.path(), &["inspect", &model, "--quick", "--json"], SOON).unwrap();
    let quick: Value = serde_json::from_str(quick.stdout.lines().last().unwrap()).unwrap();
    assert!(quick["model_id"].is_null() && quick["parameters"] == object["parameters"], "{quick}");
}
