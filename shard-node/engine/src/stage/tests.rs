//! A whole stage as a GPU computes it, on the CPU: the library's own operators, copies over the border, KV taken
//! whole. What a GPU adds (its kernels, its stream, page-locked memory) is shown by nothing here.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::LayerSpan;
use proto::tensor::NumericsClass;
use shard_node::engine::DeviceChoice;
use shard_node_stage::StepOutput;

use super::*;
use crate::ends::Lookup;
use crate::kernels::by_library_only;
use crate::kernels::linear::{Linear, LinearKind};
use crate::loader::{EngineOptions, load_stage};

const POSITIONS: u32 = 96;
const VOCAB: u32 = 128;

/// Biases, head norms, windows, two rotary bases, norms after, scaled embeddings, tied heads: all there is.
const VARIANTS: [&str; 5] = ["llama-yarn", "mistral-window", "qwen2", "qwen3", "gemma3"];

fn golden(variant: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(variant)
}

fn stage(variant: &str, class: NumericsClass, (start, end): (u32, u32)) -> TorchStage {
    let options = EngineOptions {
        model: golden(variant).join("model.gguf"),
        manifest: None,
        span: LayerSpan::new(start, end).unwrap(),
        class,
        device: DeviceChoice::Cpu,
        threads: Some(1),
    };
    load_stage(&options, |_| ()).unwrap()
}

fn token(session: u32, position: u32) -> u32 {
    (session * 131 + position * 37 + position * position) % VOCAB
}

/// Logits at the end of every chunk of two sessions that go in turn and together, through stages cut at 1.
fn logits(variant: &str, class: NumericsClass) -> Vec<Vec<f32>> {
    let mut stages = [stage(variant, class, (0, 1)), stage(variant, class, (1, 4))];
    let slots: Vec<Vec<KvSlot>> =
        stages.iter_mut().map(|stage| (0..2).map(|_| stage.open(POSITIONS).unwrap()).collect()).collect();
    let mut ends = [0u32; 2];
    let mut given = vec![];
    // Chunks, single rows, both mixed, and a row that nobody samples.
    for rows in [[20, 0], [0, 9], [1, 1], [1, 30], [12, 1], [1, 1], [40, 40], [2, 1]] {
        let mut input = StepInput::Tokens(
            (0..2).flat_map(|s| (ends[s]..ends[s] + rows[s]).map(move |p| token(s as u32, p))).collect(),
        );
        for (index, stage) in stages.iter_mut().enumerate() {
            let groups: Vec<StepGroup> = (0..2)
                .filter(|&s| rows[s] > 0)
                .map(|s| StepGroup {
                    slot: slots[index][s],
                    start: Position::new(ends[s]),
                    rows: rows[s],
                    sample: s == 0 || rows[s] > 1,
                })
                .collect();
            match stage.step(&groups, input.clone()).unwrap() {
                // At an odd address every other time: both ways into the device.
                StepOutput::Activations(bytes) if rows[0] == 1 => {
                    input = StepInput::Activations(Bytes::from([&[0], &bytes[..]].concat()).slice(1..));
                }
                StepOutput::Activations(bytes) => input = StepInput::Activations(bytes),
                StepOutput::Logits(logits) => {
                    given.extend(logits.chunks(VOCAB as usize).map(<[f32]>::to_vec));
                }
            }
        }
        ends = [ends[0] + rows[0], ends[1] + rows[1]];
    }
    for (stage, slots) in stages.iter_mut().zip(slots) {
        assert!(stage.kv_bytes() > 0);
        for slot in slots {
            stage.close(slot);
        }
        assert_eq!(stage.kv_bytes(), 0);
    }
    given
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()));
    differences.fold(0.0, f32::max)
}

#[test]
fn the_librarys_operators_compute_what_the_shim_does_in_every_family() {
    for variant in VARIANTS {
        let truth = logits(variant, NumericsClass::Exact);
        assert!(truth.len() > 8 && truth.iter().flatten().all(|value| value.is_finite()));
        let exact = by_library_only(|| logits(variant, NumericsClass::Exact));
        let difference = largest_difference(&truth, &exact);
        println!("{variant} in f32, by the library against the shim: {difference:.1e}");
        assert!(difference < 1e-4, "{variant}: {difference}");
        let by_library = mean_difference(&truth, &by_library_only(|| logits(variant, NumericsClass::Bf16)));
        let by_shim = mean_difference(&truth, &logits(variant, NumericsClass::Bf16));
        // Root mean squares of the error that bf16 makes to transformers: the measure of ours, as in golden.rs.
        let theirs = std::fs::read(golden(variant).join("bf16.json")).unwrap();
        let theirs: f64 = serde_json::from_slice(&theirs).unwrap();
        let kv8 = |by: &Vec<Vec<f32>>| mean_difference(&truth, by);
        let library_kv8 = kv8(&by_library_only(|| logits(variant, NumericsClass::Bf16Kv8)));
        let shim_kv8 = kv8(&logits(variant, NumericsClass::Bf16Kv8));
        println!("{variant} in bf16-kv8: {library_kv8:.4} by the library, {shim_kv8:.4} by the shim");
        assert!(
            library_kv8 < 3.0 * theirs && shim_kv8 < 3.0 * theirs,
            "{variant}: {library_kv8}, {shim_kv8}"
        );
        println!(
            "{variant} in bf16: {by_library:.4} by the library, {by_shim:.4} by the shim, transformers {theirs:.4}"
        );
        assert!(by_library < 2.0 * theirs && by_library > 0.0, "{variant}: {by_library}, {theirs}");
    }
}

fn mean_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: Vec<f64> =
        a.iter().zip(b).flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| f64::from(a - b).powi(2)).collect();
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

#[test]
fn a_session_in_8_bits_takes_what_it_says_and_moves_as_it_grows() {
    for by_library in [false, true] {
        let fill = || {
            let mut stage = stage("qwen3", NumericsClass::Bf16Kv8, (0, 4));
            let per_position = stage.shape.kv_bytes_per_position;
            let heads = stage.heads;
            assert_eq!(per_position, 2 * 4 * heads.keys as u64 * (heads.dim as u64 + 4));
            let slot = stage.open(400).unwrap();
            let logits = |stage: &mut TorchStage, start: u32, rows: u32| {
                let group = StepGroup { slot, start: Position::new(start), rows, sample: true };
                let tokens = StepInput::Tokens((start..start + rows).map(|p| token(0, p)).collect());
                let StepOutput::Logits(logits) = stage.step(&[group], tokens).unwrap() else {
                    panic!("no logits")
                };
                logits
            };
            logits(&mut stage, 0, 250);
            let first = logits(&mut stage, 250, 1);
            let held = stage.kv_bytes();
            assert_eq!(held, if by_library { 400 } else { 256 } * per_position);
            // Growing copies bytes and scales; trimming keeps them.
            logits(&mut stage, 251, 20);
            assert!(stage.kv_bytes() >= 271 * per_position && stage.kv_bytes() >= held);
            stage.trim(slot, Position::new(250)).unwrap();
            assert_eq!(logits(&mut stage, 250, 1), first);
            stage.close(slot);
            assert_eq!(stage.kv_bytes(), 0);
        };
        if by_library { by_library_only(fill) } else { fill() }
    }
}

#[test]
fn on_a_gpu_matrices_are_plain_the_tied_table_is_shared_and_kv_is_taken_whole() {
    by_library_only(|| {
        let mut stage = stage("gemma3", NumericsClass::Bf16, (0, 4));
        assert_eq!(stage.numerics.linear, LinearKind::Plain);
        let (
            Some(Embedding { table: Lookup::Table(table), .. }),
            Some(Head { output: Output::Linear(Linear::Plain(head)), .. }),
        ) = (&stage.embedding, &stage.head)
        else {
            panic!("a first and last stage with a plain head: {stage:?}");
        };
        assert_eq!(table.data_ptr(), head.data_ptr());
        let slot = stage.open(400).unwrap();
        let whole = 400 * stage.shape.kv_bytes_per_position;
        assert_eq!(stage.kv_bytes(), whole);
        let address = |stage: &TorchStage| stage.kv.session(slot).unwrap().layer(2).unwrap().keys.data_ptr();
        let before = address(&stage);
        for start in [0u32, 200] {
            let group = StepGroup { slot, start: Position::new(start), rows: 200, sample: false };
            let tokens = StepInput::Tokens((0..200).map(|p| token(0, p)).collect());
            assert_eq!(stage.step(&[group], tokens).unwrap(), StepOutput::Logits(vec![]));
        }
        assert_eq!((stage.kv_bytes(), address(&stage)), (whole, before));
    });
}
