//! Claims of the generator: parts equal the whole, bits never change, and the engine's reader takes the files.

use shard_node_weights::Checkpoint;

use super::values::Stream;
use super::*;

const SEED: u64 = 20_261_122;

fn micro() -> Shape {
    Shape::of("micro").unwrap()
}

/// A tensor made by itself, as stored.
fn alone(shape: Shape, name: &str, seed: u64, dtype: StoredAs) -> Vec<u8> {
    let spec = shape.tensors().into_iter().find(|spec| spec.name == name).unwrap();
    let mut values = vec![0.0; spec.values() as usize];
    Stream::new(seed, &spec).fill(0, &mut values);
    let mut bytes = Vec::new();
    dtype.encode(&values, &mut bytes);
    bytes
}

#[test]
fn a_tensor_made_alone_equals_the_one_in_the_file() {
    for dtype in [StoredAs::Bf16, StoredAs::F32] {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), micro(), dtype, SEED).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.tensors().count(), micro().tensors().len());
        for spec in micro().tensors() {
            let stored = checkpoint.require(&spec.name, &spec.shape).unwrap();
            assert_eq!(
                checkpoint.stored(stored),
                alone(micro(), &spec.name, SEED, dtype),
                "{dtype:?} {}",
                spec.name
            );
        }
        assert_eq!(checkpoint.architecture().unwrap().n_layers, 2);
    }
}

#[test]
fn tensors_of_many_pieces_are_whole() {
    // 2,048 rows of 256: less than a piece; 2 pieces and a rest with the embedding of the largest test shape.
    let shape = Shape { vocab: 9000, ..Shape::of("tiny").unwrap() };
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), shape, StoredAs::Bf16, 1).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let name = "model.embed_tokens.weight";
    assert_eq!(checkpoint.bytes(name).unwrap(), alone(shape, name, 1, StoredAs::Bf16));
}

#[test]
fn every_tensor_has_bits_of_its_own_and_every_seed_others() {
    let names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"];
    let [first, second] = names.map(|name| alone(micro(), name, SEED, StoredAs::F32));
    assert_ne!(first, second);
    assert_ne!(first, alone(micro(), names[0], SEED + 1, StoredAs::F32));
}

#[test]
fn the_bits_of_a_seed_never_change() {
    let hash = |shape: &str, name: &str, dtype| {
        blake3::hash(&alone(Shape::of(shape).unwrap(), name, 0, dtype)).to_hex()[..16].to_owned()
    };
    let golden = [
        ("micro", "model.embed_tokens.weight", StoredAs::Bf16, "58fc45abb1e31813"),
        ("micro", "model.layers.1.input_layernorm.weight", StoredAs::F32, "cfc5776c78d37616"),
        ("llama-1b", "model.layers.15.self_attn.k_proj.weight", StoredAs::Bf16, "5555038294ff7a22"),
        ("llama-8b", "model.layers.31.post_attention_layernorm.weight", StoredAs::Bf16, "06d792ef668714ea"),
    ];
    let made = golden.map(|(shape, name, dtype, _)| hash(shape, name, dtype));
    assert_eq!(made, golden.map(|(.., expected)| expected));
}

#[test]
fn presets_have_the_sizes_they_are_named_after() {
    let billions = |name: &str| {
        Shape::of(name).unwrap().tensors().iter().map(shape::Spec::values).sum::<u64>() as f64 / 1e9
    };
    for (name, low, high) in
        [("smol-135m", 0.134, 0.136), ("llama-1b", 1.0, 1.1), ("llama-3b", 2.8, 3.0), ("llama-8b", 7.2, 7.4)]
    {
        assert!((low..high).contains(&billions(name)), "{name}: {}", billions(name));
    }
}
