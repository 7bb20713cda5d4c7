//! Steps that make no sense: an error each, and the session goes on as if nothing had been.

use bytes::Bytes;
use proto::Position;
use proto::tensor::NumericsClass;
use shard_node_stage::{KvSlot, StageError, StepGroup, StepInput, StepOutput};

use crate::pipeline::Pipeline;
use crate::synthetic::SMALL;

fn group(slot: KvSlot, start: u32, rows: u32) -> StepGroup {
    StepGroup { slot, start: Position::new(start), rows, sample: true }
}

fn tokens(count: usize) -> StepInput {
    StepInput::Tokens(vec![1; count])
}

#[test]
fn wrong_steps_are_refused_and_change_nothing() {
    let directory = SMALL.safetensors();
    let mut pipeline = Pipeline::load(directory.path(), &[(0, 2), (2, 4)], NumericsClass::Exact);
    let [first, last] = &mut pipeline.stages[..] else { panic!("two stages") };
    let slot = first.open(8).unwrap();
    let StepOutput::Activations(good) = first.step(&[group(slot, 0, 2)], tokens(2)).unwrap() else {
        panic!("a first stage gives activations")
    };
    assert_eq!(good.len(), 2 * first.shape().row_bytes());
    let stranger = KvSlot::new(999);
    let mut refused = |groups: &[StepGroup], input| first.step(groups, input).unwrap_err();

    assert!(matches!(refused(&[], tokens(0)), StageError::Input(_)));
    assert!(matches!(refused(&[group(stranger, 0, 1)], tokens(1)), StageError::UnknownSlot(999)));
    assert!(matches!(refused(&[group(slot, 0, 1)], tokens(1)), StageError::Position { .. }));
    assert!(matches!(refused(&[group(slot, 3, 1)], tokens(1)), StageError::Position { .. }));
    assert!(matches!(refused(&[group(slot, 2, 7)], tokens(7)), StageError::Reservation { reserved: 8, .. }));
    assert!(matches!(refused(&[group(slot, 2, u32::MAX)], tokens(1)), StageError::Reservation { .. }));
    assert!(matches!(refused(&[group(slot, 2, 0)], tokens(0)), StageError::Input(_)));
    assert!(matches!(refused(&[group(slot, 2, 1), group(slot, 3, 1)], tokens(2)), StageError::Input(_)));
    assert!(matches!(refused(&[group(slot, 2, 1)], tokens(2)), StageError::Input(_)));
    let outside = StepInput::Tokens(vec![SMALL.vocab]);
    assert!(matches!(refused(&[group(slot, 2, 1)], outside), StageError::Token { token: 320, vocab: 320 }));
    assert!(matches!(
        refused(&[group(slot, 2, 1)], StepInput::Activations(good.clone())),
        StageError::Input(_)
    ));
    assert!(first.step(&[group(slot, 2, 6)], tokens(6)).is_ok(), "the session goes on");

    let slot = last.open(8).unwrap();
    let cut = StepInput::Activations(good.slice(..good.len() - 1));
    assert!(matches!(last.step(&[group(slot, 0, 2)], cut), Err(StageError::Input(_))));
    assert!(matches!(last.step(&[group(slot, 0, 2)], tokens(2)), Err(StageError::Input(_))));
    let whole = last.step(&[group(slot, 0, 2)], StepInput::Activations(good.clone())).unwrap();
    // The same bytes at an odd address: copied instead of borrowed, with the same result.
    last.trim(slot, Position::new(0)).unwrap();
    let shifted = Bytes::from([&[0], &good[..]].concat()).slice(1..);
    assert_eq!(last.step(&[group(slot, 0, 2)], StepInput::Activations(shifted)).unwrap(), whole);
    let silent = StepGroup { sample: false, ..group(slot, 2, 2) };
    assert_eq!(last.step(&[silent], StepInput::Activations(good)).unwrap(), StepOutput::Logits(vec![]));
}

#[test]
fn reservations_are_kept_and_memory_comes_back() {
    let directory = SMALL.safetensors();
    let mut pipeline = Pipeline::load(directory.path(), &[(0, 4)], NumericsClass::Exact);
    let stage = &mut pipeline.stages[0];
    let per_position = stage.shape().kv_bytes_per_position;
    assert_eq!(per_position, 4 * 2 * 2 * 16 * 4);
    for bad in [0, 513, u32::MAX] {
        assert!(matches!(stage.open(bad), Err(StageError::Memory { .. })), "{bad}");
    }
    let slot = stage.open(400).unwrap();
    let mut seen = vec![];
    for start in (0..400).step_by(25) {
        stage.step(&[group(slot, start, 25)], tokens(25)).unwrap();
        assert!(
            stage.kv_bytes() <= 400 * per_position
                && stage.kv_bytes() >= u64::from(start + 25) * per_position
        );
        seen.push(stage.kv_bytes());
    }
    seen.dedup();
    assert!(seen.len() <= 3, "grows by doubling: {seen:?}");
    stage.close(slot);
    stage.close(slot);
    assert_eq!(stage.kv_bytes(), 0);
    assert!(matches!(stage.trim(slot, Position::new(0)), Err(StageError::UnknownSlot(_))));
}
