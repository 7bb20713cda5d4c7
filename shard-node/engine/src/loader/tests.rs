//! What a loaded stage holds, against what `inspect` says that it would.

use std::path::Path;

use shard_node_weights::Footprint;

use super::*;

const VARIANTS: [&str; 10] = [
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "mistral-window",
    "qwen2",
    "qwen3",
    "gemma3",
    "qwen3-moe",
    "qwen3-moe-plain",
    "mixtral",
];

/// All golden models, of which llama-linear and gemma3 have a tied head: whole, both ends, and the middle.
#[test]
fn stages_hold_what_their_footprint_says() {
    for variant in VARIANTS {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(variant).join("model.gguf");
        let checkpoint = Checkpoint::open(&model).unwrap();
        let architecture = checkpoint.architecture().unwrap();
        let layers = architecture.n_layers;
        for footprint in Footprint::of_all(&architecture, false) {
            let class: NumericsClass = footprint.class.parse().unwrap();
            for (start, end) in [(0, layers), (0, 2), (1, 3), (2, layers)] {
                let span = LayerSpan::new(start, end).unwrap();
                let options = EngineOptions {
                    model: model.clone(),
                    manifest: None,
                    span,
                    class,
                    device: DeviceChoice::Cpu,
                    threads: Some(1),
                };
                let stage = load_stage(&options, |_| ()).unwrap();
                // Vectors are in f32 in every class, and no part of the matrices.
                let vectors: u64 = span_tensors(&architecture, span)
                    .iter()
                    .filter(|(_, shape)| shape.len() == 1)
                    .map(|(_, shape)| 4 * shape[0])
                    .sum();
                let predicted = footprint.span_bytes(&architecture, span) - vectors;
                assert_eq!(stage.held_bytes() as u64, predicted, "{variant} {span} in {class}");
            }
        }
    }
}
