//! Manifests: computed, cached, held against changed files; and `inspect`.

use std::path::Path;
use std::sync::Arc;

use proto::LayerSpan;
use proto::tensor::Dtype;

use super::{golden, tiny_config, write_tiny};
use crate::manifest::{SpanCheck, compute, verify};
use crate::{Checkpoint, Described, ManifestCache, StoredTensor, VerifyError, inspect, span_tensors};

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

fn described(directory: &Path) -> Described {
    compute(&Checkpoint::open(directory).unwrap(), |_, _| {}).unwrap()
}

/// Changes one byte in the middle of a file, keeping its length.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_manifest_lists_every_tensor_with_its_hash() {
    let checkpoint = Checkpoint::open(&golden("tiny.gguf")).unwrap();
    let mut seen = (0, 0);
    let described = compute(&checkpoint, |done, total| seen = (done, total)).unwrap();
    let manifest = &described.manifest;
    assert_eq!(manifest.model_id(), described.id);
    assert_eq!((manifest.container.as_str(), manifest.quantisation.as_str()), ("gguf", "Q4_1"));
    assert_eq!(seen.0, seen.1);
    assert_eq!(seen.1, checkpoint.tensors().map(StoredTensor::stored_bytes).sum::<u64>());
    let entry = manifest.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!((entry.dtype, entry.shape.as_slice()), (Dtype::Q4_1, &[64, 64][..]));
    assert_eq!(entry.blake3, proto::ContentHash::of(checkpoint.bytes(Q).unwrap()));
    for tensor in checkpoint.tensors() {
        verify(manifest, &checkpoint, &tensor.name).unwrap();
    }
}

#[test]
fn a_changed_tensor_is_named_and_makes_another_model() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let before = described(directory.path());
    let file = directory.path().join("model.safetensors");
    let len = std::fs::metadata(&file).unwrap().len() as usize;
    flip(&file, len - 3);
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    verify(&before.manifest, &checkpoint, Q).unwrap();
    let error = verify(&before.manifest, &checkpoint, "model.norm.weight").unwrap_err();
    assert!(matches!(error, VerifyError::WrongBytes { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("model.safetensors")
            && text.contains("model.norm.weight")
            && text.contains("fetch it again")
    );
    assert_ne!(described(directory.path()).id, before.id);
}

#[test]
fn a_manifest_of_another_model_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut manifest = described(directory.path()).manifest;
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    manifest.tensors.retain(|entry| entry.name != Q);
    assert!(matches!(verify(&manifest, &checkpoint, Q), Err(VerifyError::NotListed { .. })));
    manifest.tensors[0].dtype = Dtype::F16;
    let name = manifest.tensors[0].name.clone();
    assert!(matches!(verify(&manifest, &checkpoint, &name), Err(VerifyError::Differs { .. })));
}

#[test]
fn a_span_is_checked_by_several_threads_and_the_changed_tensor_named() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let manifest = Arc::new(described(directory.path()).manifest);
    let check = || {
        let checkpoint = Arc::new(Checkpoint::open(directory.path()).unwrap());
        let architecture = checkpoint.architecture().unwrap();
        let whole = LayerSpan::new(0, architecture.n_layers).unwrap();
        let check = SpanCheck::new(&manifest, &checkpoint, &span_tensors(&architecture, whole)).unwrap();
        assert!(check.includes(checkpoint.tensor(Q).unwrap()));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| check.run())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<()>, _>>()
        })
    };
    assert!(check().is_ok());
    let place = Checkpoint::open(directory.path()).unwrap().tensor(Q).unwrap().place().1 as usize;
    flip(&directory.path().join("model.safetensors"), place);
    let error = check().unwrap_err();
    assert!(matches!(&error, VerifyError::WrongBytes { tensor, .. } if tensor == Q), "{error}");
}

#[test]
fn text_parts_of_a_directory_stand_in_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let tokenizer = r#"{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}]}}"#;
    write("tokenizer.json", tokenizer);
    write(
        "tokenizer_config.json",
        r#"{"chat_template":[{"name":"x","template":"no"},{"name":"default","template":"yes"}]}"#,
    );
    write("generation_config.json", r#"{"eos_token_id":[7,2]}"#);
    let described = described(directory.path());
    let manifest = described.manifest;
    assert_eq!((manifest.bos, manifest.add_bos, manifest.eos.as_slice()), (Some(1), true, &[2, 7][..]));
    assert_eq!(manifest.chat_template.as_deref(), Some("yes"));
    assert_eq!(manifest.tokenizer.unwrap().bytes, tokenizer.len() as u64);
    assert_eq!(described.tokenizer_json.as_deref(), Some(tokenizer.as_bytes()));
    write("chat_template.jinja", "newer");
    let text = Checkpoint::open(directory.path()).unwrap().text().unwrap();
    assert_eq!(text.chat_template.as_deref(), Some("newer"));
}

#[test]
fn the_cache_spares_the_reading_until_a_file_changes_or_an_entry_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("model");
    write_tiny(&model);
    let cache = ManifestCache::new(directory.path().join("cache"));
    let ask = || {
        let mut hashed = 0;
        let described = cache.describe(&Checkpoint::open(&model).unwrap(), |done, _| hashed = done).unwrap();
        (described.id, hashed)
    };
    let (id, hashed) = ask();
    assert!(hashed > 0);
    assert_eq!(ask(), (id, 0));
    let entries = || {
        let entries = std::fs::read_dir(directory.path().join("cache")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let [entry] = &entries()[..] else { panic!("one entry") };
    for damage in [b"".to_vec(), b"junk".to_vec(), [b"0".repeat(64), b"\n{}".to_vec()].concat()] {
        std::fs::write(entry, damage).unwrap();
        assert_eq!(ask(), (id, hashed));
        assert_eq!(ask(), (id, 0));
    }
    flip(entry, 100);
    assert_eq!(ask(), (id, hashed));
    std::fs::write(model.join("generation_config.json"), r#"{"eos_token_id":5}"#).unwrap();
    let (changed, again) = ask();
    assert_ne!(changed, id);
    assert_eq!(again, hashed);
}

#[test]
fn inspect_counts_parts_and_names_what_is_missing() {
    let inspection = inspect(&Checkpoint::open(&golden("tiny.gguf")).unwrap()).unwrap();
    assert_eq!(inspection.architecture.family, "llama");
    assert_eq!(inspection.parameters, 40 * 64 + 64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3 + 64 * 3);
    assert_eq!(inspection.kv_bytes_per_token_bf16, 2 * 2 * 16 * 2);
    assert_eq!(inspection.kv_bytes_per_token_exact, 2 * 2 * 16 * 4);
    assert_eq!(inspection.embedding_bytes, 40 * 2 * 34);
    assert_eq!(inspection.head_bytes, 40 * 2 * 34 + 256);
    assert_eq!(inspection.layer_bytes.iter().sum::<u64>() + inspection.head_bytes, inspection.stored_bytes);
    assert_eq!(inspection.tensors.get("Q4_1"), Some(&4));
    assert!(inspection.unsupported.is_empty(), "{:?}", inspection.unsupported);

    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    let mut config = tiny_config();
    config["num_hidden_layers"] = serde_json::json!(2);
    config["model_type"] = serde_json::json!("mamba");
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let inspection = inspect(&Checkpoint::open(directory.path()).unwrap()).unwrap();
    let text = inspection.unsupported.join("\n");
    assert!(text.contains("mamba") && text.contains("model.layers.1.input_layernorm.weight"), "{text}");
    assert!(text.contains("and 4 more"), "{text}");
    assert!(serde_json::to_string(&inspection).unwrap().contains("kv_bytes_per_token_exact"));
}
