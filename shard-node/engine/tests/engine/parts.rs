//! Sessions that use a part of a stage's layers: the same bits as a stage that holds only these.

use proto::tensor::NumericsClass::{Bf16, Bf16Kv8, Exact, Int4, Int8};
use proto::{LayerSpan, Position};
use shard_node_stage::{KvSlot, Stage, StageError, StepGroup, StepInput, StepOutput};

use crate::pipeline::Pipeline;
use crate::synthetic::{FAMILIES, SMALL};

fn span(start: u32, end: u32) -> LayerSpan {
    LayerSpan::new(start, end).unwrap()
}

fn group(slot: KvSlot, start: u32, rows: u32) -> StepGroup {
    StepGroup { slot, start: Position::new(start), rows, sample: true }
}

fn tokens(count: u32, first: u32) -> StepInput {
    StepInput::Tokens((0..count).map(|at| (first + at * 7) % 256).collect())
}

/// What rows become that go through these stages one after the other.
fn through(stages: &mut [Box<dyn Stage>], slots: &[KvSlot], start: u32, rows: u32) -> Vec<f32> {
    let mut input = tokens(rows, start);
    for (stage, &slot) in stages.iter_mut().zip(slots) {
        match stage.step(&[group(slot, start, rows)], input).unwrap() {
            StepOutput::Activations(bytes) => input = StepInput::Activations(bytes),
            StepOutput::Logits(logits) => return logits,
        }
    }
    panic!("the last one gives no logits");
}

#[test]
fn a_part_gives_the_bits_of_a_stage_that_holds_no_more() {
    for tiny in FAMILIES {
        let directory = tiny.safetensors();
        let n = tiny.layers;
        for class in [Exact, Bf16, Bf16Kv8, Int8, Int4] {
            let mut cut = Pipeline::load(directory.path(), &[(0, 1), (1, n)], class);
            let mut all = Pipeline::load(directory.path(), &[(0, n)], class);
            let slots: Vec<KvSlot> = cut.stages.iter_mut().map(|stage| stage.open(400).unwrap()).collect();
            let whole = &mut *all.stages[0];
            let parts = [span(0, 1), span(1, n)].map(|part| whole.open_part(part, 400).unwrap());
            let other = whole.open(400).unwrap();
            // A prompt beyond the first memory of a session, then decode rows, one of another session between them.
            for (start, rows) in [(0, 20), (20, 280), (300, 1), (301, 1)] {
                let truth = through(&mut cut.stages, &slots, start, rows);
                // One stage twice in a row.
                let StepOutput::Activations(bytes) =
                    whole.step(&[group(parts[0], start, rows)], tokens(rows, start)).unwrap()
                else {
                    panic!("layer 1 of {n} gives activations")
                };
                whole.step(&[group(other, start, rows)], tokens(rows, 3)).unwrap();
                let output =
                    whole.step(&[group(parts[1], start, rows)], StepInput::Activations(bytes)).unwrap();
                assert_eq!(output, StepOutput::Logits(truth), "{} {class} rows {start}+{rows}", tiny.family);
            }
        }
    }
}

#[test]
fn a_part_takes_the_kv_of_its_layers_and_goes_with_no_other() {
    let directory = SMALL.safetensors();
    let mut pipeline = Pipeline::load(directory.path(), &[(0, 4)], Exact);
    let stage = &mut *pipeline.stages[0];
    let whole = stage.open(64).unwrap();
    let bytes = stage.kv_bytes();
    let part = stage.open_part(span(1, 2), 64).unwrap();
    assert_eq!(stage.kv_bytes() - bytes, bytes / 4);
    // Two parts in a step, tokens to a part that does not embed, a copy between two parts.
    let mixed = [group(whole, 0, 1), group(part, 0, 1)];
    assert!(matches!(stage.step(&mixed, tokens(2, 1)), Err(StageError::Input(_))));
    assert!(matches!(stage.step(&[group(part, 0, 1)], tokens(1, 1)), Err(StageError::Input(_))));
    assert!(matches!(stage.copy(whole, part, Position::new(0)), Err(StageError::Input(_))));
    let beyond = stage.open_part(span(3, 5), 64);
    assert_eq!(beyond, Err(StageError::Part { part: span(3, 5), span: span(0, 4) }));
    // In pieces, as at once.
    let row = StepInput::Activations(vec![0; stage.shape().row_bytes()].into());
    let at_once = stage.step(&[group(part, 0, 1)], row.clone()).unwrap();
    stage.trim(part, Position::new(0)).unwrap();
    stage.begin(&[group(part, 0, 1)], row).unwrap();
    assert_eq!(stage.resume(1), Ok(Some(at_once)), "it has one layer");
}
