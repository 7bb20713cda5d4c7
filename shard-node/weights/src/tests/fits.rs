//! Files held against a manifest that was computed elsewhere, with all or some of the shard files there.

use std::path::Path;

use proto::LayerSpan;
use proto::manifest::Manifest;
use serde_json::json;

use super::{golden, safetensors, tiny_config, write_tiny};
use crate::manifest::{compute, verify};
use crate::{Checkpoint, FitError, TensorError, VerifyError, check_fits, span_tensors};

/// An HF directory of a llama of two layers in three shard files: embedding; layer 0; layer 1, norm and head.
fn write_sharded(directory: &Path) {
    let mut config = tiny_config();
    config["num_hidden_layers"] = json!(2);
    config["tie_word_embeddings"] = json!(false);
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let mut one = tiny_architecture();
    (one.n_layers, one.tied_head) = (2, false);
    let tensors = span_tensors(&one, LayerSpan::new(0, 2).unwrap());
    let shard_of = |name: &str| match name {
        "model.embed_tokens.weight" => SHARDS[0],
        name if name.starts_with("model.layers.0.") => SHARDS[1],
        _ => SHARDS[2],
    };
    for shard in SHARDS {
        let held: Vec<_> = tensors.iter().filter(|(name, _)| shard_of(name) == shard).collect();
        let listed: Vec<_> = held
            .iter()
            .map(|(name, shape)| {
                let values = 0..shape.iter().product::<u64>();
                let bytes = values.flat_map(|i| (i as f32 + name.len() as f32).to_le_bytes()).collect();
                (&**name, "F32", &**shape, bytes)
            })
            .collect();
        std::fs::write(directory.join(shard), safetensors(&listed)).unwrap();
    }
    let map: serde_json::Map<_, _> =
        tensors.iter().map(|(name, _)| (name.clone(), json!(shard_of(name)))).collect();
    let index = json!({ "weight_map": map }).to_string();
    std::fs::write(directory.join("model.safetensors.index.json"), index).unwrap();
}

const SHARDS: [&str; 3] = ["m-1.safetensors", "m-2.safetensors", "m-3.safetensors"];

fn tiny_architecture() -> proto::manifest::Architecture {
    let directory = tempfile::tempdir().unwrap();
    write_tiny(directory.path());
    Checkpoint::open(directory.path()).unwrap().architecture().unwrap()
}

fn manifest_of(path: &Path) -> Manifest {
    compute(&Checkpoint::open(path).unwrap(), |_, _| {}).unwrap().manifest
}

fn fits(manifest: &Manifest, path: &Path, start: u32, end: u32) -> Result<(), FitError> {
    check_fits(manifest, &Checkpoint::open(path).unwrap(), LayerSpan::new(start, end).unwrap())
}

#[test]
fn a_span_needs_only_the_shard_files_of_its_layers() {
    let directory = tempfile::tempdir().unwrap();
    write_sharded(directory.path());
    let manifest = manifest_of(directory.path());
    fits(&manifest, directory.path(), 0, 2).unwrap();
    for shard in &SHARDS[..2] {
        std::fs::remove_file(directory.path().join(shard)).unwrap();
    }
    fits(&manifest, directory.path(), 1, 2).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    for (tensor, _) in span_tensors(&manifest.architecture, LayerSpan::new(1, 2).unwrap()) {
        verify(&manifest, &checkpoint, &tensor).unwrap();
    }
    let error = fits(&manifest, directory.path(), 0, 2).unwrap_err();
    let missing = matches!(
        &error,
        FitError::Tensor(VerifyError::Tensor(TensorError::ShardMissing { tensor, .. }))
            if tensor == "model.embed_tokens.weight"
    );
    assert!(missing, "{error}");
    let text = error.to_string();
    assert!(text.contains("m-1.safetensors") && text.contains("is missing"), "{text}");
    // A manifest needs them all, and says which is not there.
    let error = compute(&checkpoint, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("m-1.safetensors"), "{error}");
}

#[test]
fn a_directory_without_any_shard_opens_and_names_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    write_sharded(directory.path());
    let manifest = manifest_of(directory.path());
    for shard in SHARDS {
        std::fs::remove_file(directory.path().join(shard)).unwrap();
    }
    let error = fits(&manifest, directory.path(), 0, 1).unwrap_err().to_string();
    assert!(error.contains("m-1.safetensors") && error.contains("embed_tokens"), "{error}");
}

#[test]
fn the_bytes_of_another_span_do_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    write_sharded(directory.path());
    let manifest = manifest_of(directory.path());
    let shard = directory.path().join(SHARDS[1]);
    let mut bytes = std::fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let wrong = |start, end| {
        let tensors = span_tensors(&manifest.architecture, LayerSpan::new(start, end).unwrap());
        tensors.iter().find_map(|(tensor, _)| verify(&manifest, &checkpoint, tensor).err())
    };
    assert!(wrong(1, 2).is_none());
    assert!(matches!(wrong(0, 1), Some(VerifyError::WrongBytes { .. })));
}

#[test]
fn another_models_files_are_told_by_what_differs() {
    let directory = tempfile::tempdir().unwrap();
    write_sharded(directory.path());
    let manifest = manifest_of(directory.path());
    let text = |manifest: &Manifest| fits(manifest, directory.path(), 0, 2).unwrap_err().to_string();

    let gguf = manifest_of(&golden("tiny.gguf"));
    let error = text(&gguf);
    assert!(error.contains("container is safetensors") && error.contains("says gguf"), "{error}");
    assert!(error.contains(&gguf.model_id().short()), "{error}");

    let mut wider = manifest.clone();
    wider.architecture.ffn = 24;
    let error = text(&wider);
    assert!(error.contains("ffn is 12") && error.contains("says 24"), "{error}");

    let mut halved = manifest.clone();
    let at = halved.tensors.iter().position(|entry| entry.name == "model.norm.weight").unwrap();
    halved.tensors[at].dtype = proto::tensor::Dtype::F16;
    let error = text(&halved);
    assert!(error.contains("model.norm.weight is F32 [8]") && error.contains("says F16 [8]"), "{error}");
    halved.tensors.remove(at);
    let error = text(&halved);
    assert!(error.contains("model.norm.weight is not in the manifest"), "{error}");
}
