//! Steps that are computed in pieces: the same bits as at once, whatever others compute between them.

use proto::Position;
use proto::tensor::NumericsClass::{Bf16, Bf16Kv8, Exact, Int4, Int8};
use shard_node_stage::{KvSlot, Stage, StageError, StepGroup, StepInput, StepOutput};

use crate::pipeline::Pipeline;
use crate::synthetic::{FAMILIES, SMALL};

fn group(slot: KvSlot, start: u32, rows: u32) -> StepGroup {
    StepGroup { slot, start: Position::new(start), rows, sample: true }
}

fn tokens(count: u32, first: u32) -> StepInput {
    StepInput::Tokens((0..count).map(|at| (first + at * 7) % 256).collect())
}

/// Two prompts' rows by turns in pieces, and a decode row of a third session before each piece.
fn in_pieces(
    stage: &mut dyn Stage,
    input: &[StepInput; 2],
    layers: u32,
) -> (Vec<StepOutput>, Vec<StepOutput>) {
    let (slots, other) = ([stage.open(64).unwrap(), stage.open(64).unwrap()], stage.open(64).unwrap());
    let (mut whole, mut between, mut at) = (Vec::new(), Vec::new(), 0);
    for (slot, rows) in slots.into_iter().zip(input) {
        stage.begin(&[group(slot, 0, 40)], rows.clone()).unwrap();
        loop {
            let row = match &input[0] {
                StepInput::Tokens(_) => tokens(1, at),
                StepInput::Activations(bytes) => {
                    let width = bytes.len() / 40;
                    StepInput::Activations(bytes.slice(at as usize * width..(at as usize + 1) * width))
                }
            };
            between.push(stage.step(&[group(other, at, 1)], row).unwrap());
            at += 1;
            if let Some(output) = stage.resume(layers).unwrap() {
                whole.push(output);
                break;
            }
        }
    }
    (whole, between)
}

#[test]
fn pieces_give_the_bits_of_the_whole() {
    for tiny in FAMILIES {
        let directory = tiny.safetensors();
        for class in [Exact, Bf16, Bf16Kv8, Int8, Int4] {
            let spans = [(0, 2), (2, tiny.layers)];
            let mut pipeline = Pipeline::load(directory.path(), &spans, class);
            let mut input = [tokens(40, 3), tokens(40, 11)];
            for stage in &mut pipeline.stages {
                let truths = in_pieces(&mut **stage, &input, u32::MAX);
                for layers in [1, 2] {
                    let given = in_pieces(&mut **stage, &input, layers);
                    assert!(given.1.len() >= truths.1.len() && given.1[..2] == truths.1[..]);
                    assert_eq!(given.0, truths.0, "{} {class} by {layers} layers", tiny.family);
                }
                if let [StepOutput::Activations(first), StepOutput::Activations(second)] = &truths.0[..] {
                    input = [first, second].map(|bytes| StepInput::Activations(bytes.clone()));
                }
            }
        }
    }
}

#[test]
fn what_is_given_up_or_refused_leaves_nothing() {
    let directory = SMALL.safetensors();
    let mut pipeline = Pipeline::load(directory.path(), &[(0, 4)], Exact);
    let stage = &mut *pipeline.stages[0];
    let (slot, lost) = (stage.open(64).unwrap(), stage.open(64).unwrap());
    let truth = stage.step(&[group(slot, 0, 20)], tokens(20, 1)).unwrap();
    stage.trim(slot, Position::new(0)).unwrap();

    assert!(matches!(stage.resume(1), Err(StageError::Input(_))), "nothing was begun");
    stage.begin(&[group(slot, 0, 20)], tokens(20, 9)).unwrap();
    assert_eq!(stage.resume(2), Ok(None));
    stage.give_up();
    assert!(matches!(stage.resume(1), Err(StageError::Input(_))), "it was given up");
    assert!(matches!(stage.begin(&[group(slot, 1, 20)], tokens(20, 1)), Err(StageError::Position { .. })));
    // The slot of what was begun goes, which a node does not let happen: an error, no crash.
    stage.begin(&[group(lost, 0, 20)], tokens(20, 9)).unwrap();
    assert_eq!(stage.resume(3), Ok(None));
    stage.close(lost);
    assert!(stage.resume(1).is_err() && stage.resume(1).is_err());
    // One that is begun anew takes the place of the one before.
    stage.begin(&[group(slot, 0, 20)], tokens(20, 9)).unwrap();
    assert_eq!(stage.resume(1), Ok(None));
    stage.begin(&[group(slot, 0, 20)], tokens(20, 1)).unwrap();
    assert_eq!(stage.resume(9), Ok(Some(truth)));
}
