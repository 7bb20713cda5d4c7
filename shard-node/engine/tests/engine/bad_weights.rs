//! Weights that are missing, cut short, or of another type or shape: refused by name, with a cure.

use std::path::Path;
use std::sync::Arc;

use proto::LayerSpan;
use proto::tensor::NumericsClass;
use serde_json::json;
use shard_node_engine::{DeviceChoice, EngineOptions, load};
use shard_node_weights::{Checkpoint, manifest};

use crate::synthetic::{SMALL, write_directory};

fn options(model: &Path, span: (u32, u32)) -> EngineOptions {
    EngineOptions {
        model: model.to_owned(),
        manifest: None,
        span: LayerSpan::new(span.0, span.1).unwrap(),
        class: NumericsClass::Exact,
        device: DeviceChoice::Cpu,
        threads: Some(1),
    }
}

fn refusal(model: &Path, span: (u32, u32)) -> String {
    match load(&options(model, span), |_| ()) {
        Ok(_) => panic!("{} loads", model.display()),
        Err(error) => error.to_string(),
    }
}

const LOST: &str = "model.layers.2.mlp.up_proj.weight";

#[test]
fn a_missing_tensor_is_named_and_matters_only_to_its_span() {
    let mut tensors = SMALL.tensors();
    tensors.retain(|tensor| tensor.name != LOST);
    let directory = write_directory(&SMALL.config(), &tensors);
    let error = refusal(directory.path(), (0, 4));
    assert!(error.contains(LOST), "{error}");
    assert!(load(&options(directory.path(), (0, 2)), |_| ()).is_ok(), "other spans load");
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let mut tensors = SMALL.tensors();
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == LOST).unwrap();
    tensor.shape.reverse();
    let directory = write_directory(&SMALL.config(), &tensors);
    let error = refusal(directory.path(), (2, 4));
    assert!(error.contains(LOST) && error.contains("[96, 176]") && error.contains("[176, 96]"), "{error}");
}

#[test]
fn a_tensor_of_an_unreadable_type_is_named_with_its_type() {
    let directory = SMALL.safetensors();
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..header_end]).unwrap();
    header[LOST]["dtype"] = json!("I32");
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header_end - 8, b' ');
    std::fs::write(&path, [&bytes[..8], &header, &bytes[header_end..]].concat()).unwrap();
    let error = refusal(directory.path(), (0, 4));
    assert!(error.contains(LOST) && error.contains("I32"), "{error}");
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_place_and_matters_only_to_its_span() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut tensors = SMALL.tensors();
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == LOST).unwrap();
        let columns = tensor.shape[1] as usize;
        tensor.values[2 * columns + 7] = value;
        let directory = write_directory(&SMALL.config(), &tensors);
        for class in [NumericsClass::Exact, NumericsClass::Bf16] {
            let options = EngineOptions { class, ..options(directory.path(), (2, 4)) };
            let error = load(&options, |_| ()).map(|_| ()).unwrap_err().to_string();
            assert!(
                error.contains(LOST) && error.contains(&format!("{value} in row 2, column 7")),
                "{error}"
            );
        }
        assert!(load(&options(directory.path(), (0, 2)), |_| ()).is_ok(), "other spans load");
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let directory = SMALL.safetensors();
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1000]).unwrap();
    let error = refusal(directory.path(), (0, 4));
    assert!(error.contains("model.safetensors"), "{error}");
}

#[test]
fn layers_out_of_range_and_unknown_families_are_refused() {
    let directory = SMALL.safetensors();
    let error = refusal(directory.path(), (2, 9));
    assert!(error.contains("2..9") && error.contains("4 layers"), "{error}");
    let mut config = SMALL.config();
    config.insert("model_type".into(), json!("mamba"));
    let directory = write_directory(&config, &SMALL.tensors());
    let error = refusal(directory.path(), (0, 4));
    assert!(error.contains("mamba"), "{error}");
}

#[test]
fn a_tensor_that_is_not_the_manifests_is_refused_by_the_span_that_reads_it() {
    let directory = SMALL.safetensors();
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let manifest = Arc::new(manifest::compute(&checkpoint, |_, _| ()).unwrap().manifest);
    drop(checkpoint);
    let mut tensors = SMALL.tensors();
    tensors.iter_mut().find(|tensor| tensor.name == LOST).unwrap().values[7] += 1.0;
    let directory = write_directory(&SMALL.config(), &tensors);
    let with_manifest =
        |span| EngineOptions { manifest: Some(manifest.clone()), ..options(directory.path(), span) };
    let error = load(&with_manifest((1, 4)), |_| ()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(LOST), "{error}");
    assert!(load(&with_manifest((0, 2)), |_| ()).is_ok(), "the other span's bytes are right");
}
