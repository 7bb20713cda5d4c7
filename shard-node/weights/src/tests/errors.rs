//! Every way in which a model can be wrong gives an error that names the file, the tensor and the cure.

use std::path::Path;

use serde_json::json;

use super::{safetensors, tiny_config, tiny_tensors, with_header, write_tiny};
use crate::gguf::Gguf;
use crate::header::HeaderError;
use crate::{Checkpoint, OpenError, TensorError, safetensors::parse};

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

fn rewrite(
    directory: &Path,
    change: impl Fn(&str, Vec<u64>, Vec<u8>) -> Option<(&'static str, Vec<u64>, Vec<u8>)>,
) {
    let tensors: Vec<_> = tiny_tensors()
        .into_iter()
        .filter_map(|(name, shape, bytes)| {
            change(&name, shape, bytes).map(|(dtype, shape, bytes)| (name, dtype, shape, bytes))
        })
        .collect();
    let listed: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (&**name, *dtype, &**shape, bytes.clone()))
        .collect();
    std::fs::write(directory.join("model.safetensors"), safetensors(&listed)).unwrap();
}

fn span_error(directory: &Path) -> TensorError {
    let checkpoint = Checkpoint::open(directory).unwrap();
    let architecture = checkpoint.architecture().unwrap();
    checkpoint.check_span(&architecture, proto::LayerSpan::new(0, 1).unwrap()).unwrap_err()
}

#[test]
fn a_complete_directory_opens() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let architecture = checkpoint.architecture().unwrap();
    checkpoint.check_span(&architecture, proto::LayerSpan::new(0, 1).unwrap()).unwrap();
    assert_eq!(architecture.head_dim, 4);
    assert_eq!(checkpoint.rows::<f32>(Q, 1..2).unwrap()[0], 3008.0);
}

#[test]
fn an_unknown_path_names_itself_and_the_cure() {
    let error = Checkpoint::open(Path::new("no/such/model")).unwrap_err().to_string();
    assert!(error.starts_with("no/such/model: there is no such file") && error.contains(".gguf"), "{error}");
}

#[test]
fn a_missing_tensor_is_named_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    rewrite(directory.path(), |name, shape, bytes| (name != Q).then_some(("F32", shape, bytes)));
    let error = span_error(directory.path());
    assert!(matches!(&error, TensorError::Missing { tensor, .. } if tensor == Q), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&directory.path().display().to_string()) && text.contains("fetch it again"),
        "{text}"
    );
}

#[test]
fn a_wrong_dtype_is_named_with_the_readable_ones() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    rewrite(directory.path(), |name, shape, bytes| {
        let half = bytes.len() / 4;
        Some(if name == Q { ("F8_E4M3", shape, bytes[..half].to_vec()) } else { ("F32", shape, bytes) })
    });
    let error = span_error(directory.path()).to_string();
    assert!(
        error.contains(
            "model.safetensors: tensor model.layers.0.self_attn.q_proj.weight is stored as F8_E4M3"
        )
    );
    assert!(error.contains("Q8_0"), "{error}");
}

#[test]
fn a_wrong_shape_shows_both() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    rewrite(directory.path(), |name, shape, bytes| {
        Some(if name == Q { ("F32", vec![4, 16], bytes) } else { ("F32", shape, bytes) })
    });
    let error = span_error(directory.path()).to_string();
    assert!(error.contains("has shape [4, 16], the architecture demands [8, 8]"), "{error}");
}

#[test]
fn a_truncated_file_names_the_tensor() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Header { source: HeaderError::TensorTruncated { tensor, .. }, .. } if tensor == "model.norm.weight"),
        "{error}"
    );
    std::fs::write(&path, &bytes[..5]).unwrap();
    assert!(Checkpoint::open(directory.path()).unwrap_err().to_string().contains("truncated"));
    std::fs::write(&path, b"").unwrap();
    assert!(Checkpoint::open(directory.path()).unwrap_err().to_string().contains("truncated"));
}

#[test]
fn a_truncated_gguf_names_the_tensor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.gguf");
    let bytes = std::fs::read(super::golden("tiny.gguf")).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("cut.gguf: tensor ") && error.contains("fetch it again"), "{error}");
    std::fs::write(&path, b"GGML").unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("not a GGUF file"));
}

#[test]
fn shards_are_found_and_an_absent_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), tiny_config().to_string()).unwrap();
    let mut map = serde_json::Map::new();
    for (at, (name, shape, bytes)) in tiny_tensors().into_iter().enumerate() {
        let shard = format!("model-{}.safetensors", at % 2);
        if !directory.path().join(&shard).exists() {
            let part: Vec<_> = tiny_tensors().into_iter().skip(at).step_by(2).collect();
            let listed: Vec<_> =
                part.iter().map(|(name, shape, bytes)| (&**name, "F32", &**shape, bytes.clone())).collect();
            std::fs::write(directory.path().join(&shard), safetensors(&listed)).unwrap();
        }
        assert_eq!(shape.iter().product::<u64>() * 4, bytes.len() as u64);
        map.insert(name, json!(shard));
    }
    let index = directory.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(checkpoint.rows::<f32>(Q, 1..2).unwrap()[0], 3008.0);
    assert_eq!(checkpoint.files().len(), 2);
    std::fs::remove_file(directory.path().join("model-1.safetensors")).unwrap();
    let error = span_error(directory.path());
    assert!(matches!(error, TensorError::ShardMissing { .. }), "{error}");
    assert!(error.to_string().contains("model-1.safetensors"), "{error}");
    for shard in ["../model.safetensors", "/etc/x.safetensors", "", "a\\b.safetensors", "model.bin"] {
        std::fs::write(&index, json!({"weight_map": {"a": shard}}).to_string()).unwrap();
        assert!(matches!(Checkpoint::open(directory.path()), Err(OpenError::Json { .. })), "{shard}");
    }
}

#[test]
fn a_directory_without_weights_says_what_it_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), tiny_config().to_string()).unwrap();
    assert!(
        Checkpoint::open(directory.path()).unwrap_err().to_string().contains("model.safetensors.index.json")
    );
    std::fs::write(directory.path().join("config.json"), "[1]").unwrap();
    assert!(
        Checkpoint::open(directory.path())
            .unwrap_err()
            .to_string()
            .contains("config.json: not a JSON object")
    );
}

#[test]
fn broken_safetensors_headers_are_refused_each_for_its_reason() {
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let a = entry("F32", "[2]", 0, 8);
    let cases = [
        (format!(r#"{{"a":{a},"a":{a}}}"#), 8, "appears twice"),
        (format!(r#"{{"a":{a},"b":{}}}"#, entry("F32", "[2]", 4, 12)), 12, "shares bytes"),
        (format!(r#"{{"a":{a},"b":{}}}"#, entry("F32", "[2]", 12, 20)), 20, "hole"),
        (format!(r#"{{"a":{a}}}"#), 9, "1 bytes follow"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[3]", 0, 8)), 8, "needs 12 bytes"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 8, 0)), 8, "before they begin"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[18446744073709551615,2]", 0, 8)), 8, "overflows"),
        (format!(r#"{{"a":{}}}"#, entry("Q9", "[2]", 0, 8)), 8, "type Q9 of tensor a is not supported"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[1,1,1,1,1,1,1,1,2]", 0, 8)), 8, "9 dimensions"),
        (format!(r#"{{"":{a}}}"#), 8, "tensor name"),
        (r#"{"a":{"dtype":"F32"}}"#.to_owned(), 0, "malformed"),
        ("[]".to_owned(), 0, "not a JSON object"),
    ];
    for (header, body, expected) in cases {
        let error = parse(&with_header(&header, &vec![0; body])).unwrap_err().to_string();
        assert!(error.contains(expected), "{header}: {error}");
    }
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend_from_slice(b"{}");
    assert!(parse(&huge).unwrap_err().to_string().contains("more than the limit"));
}

#[test]
fn unsupported_parts_are_all_named() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut config = tiny_config();
    config["model_type"] = json!("gpt_neox");
    config["hidden_act"] = json!("gelu");
    config["attention_bias"] = json!(true);
    config["rope_scaling"] = json!({"rope_type": "longrope", "factor": 4.0});
    config["quantization_config"] = json!({"quant_method": "gptq"});
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap().architecture().unwrap_err().to_string();
    for part in ["gpt_neox", "gelu", "attention_bias", "longrope", "gptq"] {
        assert!(error.contains(part), "{error}");
    }
    config["model_type"] = json!("llama");
    config["num_hidden_layers"] = json!("many");
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap().architecture().unwrap_err().to_string();
    assert!(error.contains("num_hidden_layers is not a 32-bit number"), "{error}");
}

#[test]
fn a_family_whose_numbers_have_other_names_is_refused_by_its_own() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let config = json!({"model_type": "mamba2", "num_heads": 128, "state_size": 128});
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap().architecture().unwrap_err().to_string();
    assert!(error.contains("model_type \"mamba2\"") && error.contains("llama"), "{error}");
    let path = directory.path().join("rwkv.gguf");
    let golden = std::fs::read(super::golden("tiny.gguf")).unwrap();
    // The first string of the metadata; keys then begin with a name that no key begins with.
    let at = golden.windows(5).position(|bytes| bytes == b"llama").unwrap();
    let spoilt = [&golden[..at], b"rwkv6", &golden[at + 5..]].concat();
    std::fs::write(&path, spoilt).unwrap();
    let error = Checkpoint::open(&path).unwrap().architecture().unwrap_err().to_string();
    assert!(error.contains("architecture \"rwkv6\"") && error.contains("llama"), "{error}");
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    rewrite(directory.path(), |name, shape, mut bytes| {
        if name == Q {
            bytes[(5 * 8 + 3) * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Some(("F32", shape, bytes))
    });
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let error = checkpoint.values::<f32>(Q).unwrap_err().to_string();
    assert!(
        error.contains(Q) && error.contains("NaN in row 5, column 3") && error.contains("fetch it again")
    );
    assert!(
        checkpoint.rows::<crate::Bf16>(Q, 2..6).unwrap_err().to_string().contains("NaN in row 5, column 3")
    );
    checkpoint.rows::<f32>(Q, 0..5).unwrap();
    checkpoint.rows::<f32>(Q, 6..8).unwrap();
}

/// `Q4_1` blocks of 32, rows of 64, heads of 16: row 6 of HF is stored as row 12.
#[test]
fn a_scale_that_is_not_finite_is_named_by_the_row_that_hf_gives_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("inf.gguf");
    let mut golden = std::fs::read(super::golden("tiny.gguf")).unwrap();
    let gguf = Gguf::parse(&golden).unwrap();
    let tensor = gguf.tensors.iter().find(|tensor| tensor.name == "blk.0.attn_q.weight").unwrap();
    let at = tensor.offset as usize + 12 * 40 + 20;
    golden[at..at + 2].copy_from_slice(&0x7c00_u16.to_le_bytes());
    std::fs::write(&path, &golden).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let error = checkpoint.values::<f32>(Q).unwrap_err();
    assert!(matches!(error, TensorError::NotFinite { row: 6, column: 32, .. }), "{error}");
}

#[test]
fn json_files_with_too_many_values_are_refused_before_they_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let zeros = |count: usize| vec!["0"; count].join(",");
    let config = directory.path().join("config.json");
    std::fs::write(&config, format!(r#"{{"a":[{}]}}"#, zeros(1 << 18))).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("config.json: 262146 values, more than the limit of 262144"), "{error}");
    std::fs::write(&config, tiny_config().to_string()).unwrap();
    let tokenizer = directory.path().join("tokenizer.json");
    let merges = vec![r#""a a""#; (1 << 20) + 1].join(",");
    std::fs::write(&tokenizer, format!(r#"{{"model":{{"merges":[{merges}]}}}}"#)).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap().text().unwrap_err().to_string();
    assert!(error.contains("tokenizer.json has 1048577 merges, more than the limit of 1048576"), "{error}");
    let index = directory.path().join("model.safetensors.index.json");
    let entries: Vec<String> = (0..=1 << 17).map(|i| format!(r#""{i}":"a.safetensors""#)).collect();
    std::fs::write(&index, format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(","))).unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("more than 131072 tensors"), "{error}");
}

#[test]
fn llama3_scaling_is_read() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut config = tiny_config();
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let architecture = Checkpoint::open(directory.path()).unwrap().architecture().unwrap();
    assert_eq!(
        architecture.rope_scaling,
        Some(proto::manifest::RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192
        })
    );
}

#[test]
fn a_scaling_that_cannot_be_divided_by_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut config = tiny_config();
    for factor in [0.0, -1.0] {
        config["rope_scaling"] = json!({"rope_type": "linear", "factor": factor});
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let error = Checkpoint::open(directory.path()).unwrap().architecture().unwrap_err().to_string();
        assert!(error.contains("rope scaling makes no sense"), "{error}");
    }
}

#[test]
fn released_pages_leave_memory_and_come_back() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let bytes = vec![0x3f_u8; 64 << 20];
    let file = safetensors(&[("large", "F32", &[4096, 4096], bytes)]);
    std::fs::write(directory.path().join("model.safetensors"), file).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let before = resident();
    let sum = |()| checkpoint.bytes("large").unwrap().iter().map(|&byte| u64::from(byte)).sum::<u64>();
    let first = sum(());
    let read = resident();
    checkpoint.release("large").unwrap();
    let after = resident();
    println!("RssFile {before} KiB, {read} KiB when read, {after} KiB when released");
    assert!(read > before + (60 << 10) && after + (60 << 10) < read);
    assert_eq!(sum(()), first);
}

/// llama.cpp keeps the head of a quantised model in a better type than the layers, often one not read here.
#[test]
fn a_gguf_whose_head_cannot_be_read_does_not_pass_for_one_with_a_tied_head() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("untied.gguf");
    std::fs::write(&path, with_unreadable_tensor("output.weight")).unwrap();
    let error = span_error(&path).to_string();
    assert!(error.contains("tensor lm_head.weight is stored as IQ4_NL") && error.contains("Q8_0"), "{error}");
    std::fs::write(&path, with_unreadable_tensor("blk.0.attn_v.bias")).unwrap();
    let error = Checkpoint::open(&path).unwrap().architecture().unwrap_err().to_string();
    assert!(error.contains("biases (model.layers.0.self_attn.v_proj.bias)"), "{error}");
}

/// The golden model with one more tensor, 40 x 64, in a type that can't be read.
fn with_unreadable_tensor(name: &str) -> Vec<u8> {
    let golden = std::fs::read(super::golden("tiny.gguf")).unwrap();
    let data = Gguf::parse(&golden).unwrap().tensors[0].offset as usize;
    // The last entry of the table: its name, one dimension, type and offset.
    let last = b"output_norm.weight";
    let table_end =
        golden.windows(last.len()).position(|at| at == last).unwrap() + last.len() + 4 + 8 + 4 + 8;
    assert_eq!(table_end.next_multiple_of(32), data);
    let mut file = golden[..table_end].to_vec();
    file[8] += 1;
    file.extend((name.len() as u64).to_le_bytes());
    file.extend(name.as_bytes());
    file.extend(2_u32.to_le_bytes());
    file.extend([64_u64, 40].map(u64::to_le_bytes).concat());
    file.extend(20_u32.to_le_bytes());
    file.extend(((golden.len() - data).next_multiple_of(32) as u64).to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(&golden[data..]);
    file.resize(file.len().next_multiple_of(32) + 40 * 2 * 18, 0);
    file
}
