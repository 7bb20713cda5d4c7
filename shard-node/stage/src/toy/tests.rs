//! The toy stage against the toy model, and that mistakes show.

use proptest::prelude::*;

use super::*;

fn span(start: u32, end: u32) -> LayerSpan {
    LayerSpan::new(start, end).unwrap()
}

/// A pipeline in one thread, one session.
struct Pipeline {
    stages: Vec<(ToyStage, KvSlot)>,
    length: u32,
}

impl Pipeline {
    fn new(model: ToyModel, parts: u32) -> Self {
        let stages = LayerSpan::split_evenly(model.n_layers, parts)
            .unwrap()
            .into_iter()
            .map(|span| {
                let mut stage = ToyStage::new(model, span);
                let slot = stage.open(256).unwrap();
                (stage, slot)
            })
            .collect();
        Self { stages, length: 0 }
    }

    fn feed(&mut self, tokens: &[u32]) -> Vec<f32> {
        let (start, rows) = (Position::new(self.length), tokens.len() as u32);
        self.length += rows;
        let mut input = StepInput::Tokens(tokens.to_vec());
        for (stage, slot) in &mut self.stages {
            let group = StepGroup { slot: *slot, start, rows, sample: true };
            match stage.step(&[group], input).unwrap() {
                StepOutput::Activations(bytes) => input = StepInput::Activations(bytes),
                StepOutput::Logits(logits) => return logits,
            }
        }
        unreachable!("the last stage gives logits")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn k_stages_in_chunks_equal_the_model(
        layers in 1u32..12, parts in 1u32..12, prompt in prop::collection::vec(0u32..64, 1..40), chunk in 1usize..40,
    ) {
        let model = ToyModel::new(layers);
        let mut pipeline = Pipeline::new(model, parts.min(layers));
        let mut logits = Vec::new();
        for piece in prompt.chunks(chunk) {
            logits = pipeline.feed(piece);
        }
        prop_assert_eq!(logits, model.logits(&prompt));
    }

    /// A step that is computed in pieces gives what it gives at once, whatever others compute between them.
    #[test]
    fn pieces_with_others_between_them_equal_the_model(
        layers in 1u32..12, prompt in prop::collection::vec(0u32..64, 1..20), pieces in prop::collection::vec(1u32..5, 12),
    ) {
        let model = ToyModel::new(layers);
        let mut stage = ToyStage::new(model, span(0, layers));
        let (slot, other) = (stage.open(64).unwrap(), stage.open(64).unwrap());
        let group = |slot, start, rows: &[u32]| {
            (StepGroup { slot, start: Position::new(start), rows: rows.len() as u32, sample: true }, StepInput::Tokens(rows.to_vec()))
        };
        let mut said = Vec::new();
        for &offset in &[0, 1] {
            let rows = if offset == 0 { &prompt[..] } else { &[7][..] };
            let (own, input) = group(slot, offset * prompt.len() as u32, rows);
            stage.begin(&[own], input).unwrap();
            let mut pieces = pieces.iter();
            let output = loop {
                let (row, token) = group(other, said.len() as u32, &[said.len() as u32]);
                said.push(said.len() as u32);
                prop_assert_eq!(stage.step(&[row], token).unwrap(), StepOutput::Logits(model.logits(&said)));
                if let Some(output) = stage.resume(*pieces.next().unwrap()).unwrap() {
                    break output;
                }
            };
            let all = if offset == 0 { prompt.clone() } else { [&prompt[..], &[7]].concat() };
            prop_assert_eq!(output, StepOutput::Logits(model.logits(&all)));
        }
    }

    #[test]
    fn a_changed_swapped_lost_or_doubled_token_changes_the_logits(
        prompt in prop::collection::vec(0u32..64, 2..20), at in 0usize..18,
    ) {
        let model = ToyModel::new(4);
        let at = at.min(prompt.len() - 2);
        let truth = model.logits(&prompt);
        let mut variants = Vec::new();
        let mut lost = prompt.clone();
        lost.remove(at);
        variants.push(lost);
        let mut doubled = prompt.clone();
        doubled.insert(at, prompt[at]);
        variants.push(doubled);
        let mut swapped = prompt.clone();
        swapped.swap(at, at + 1);
        if swapped != prompt {
            variants.push(swapped);
        }
        let mut changed = prompt.clone();
        changed[at] ^= 1;
        variants.push(changed);
        for variant in variants {
            prop_assert_ne!(&model.logits(&variant), &truth);
        }
    }
}

#[test]
fn sessions_in_one_step_do_not_touch_each_other() {
    let model = ToyModel::new(3);
    let mut stage = ToyStage::new(model, span(0, 3));
    let (a, b) = (stage.open(16).unwrap(), stage.open(16).unwrap());
    let group = |slot, start, rows| StepGroup { slot, start: Position::new(start), rows, sample: true };
    let tokens = StepInput::Tokens(vec![1, 2, 3, 9]);
    let StepOutput::Logits(logits) = stage.step(&[group(a, 0, 3), group(b, 0, 1)], tokens).unwrap() else {
        panic!("a last stage")
    };
    assert_eq!(logits, [model.logits(&[1, 2, 3]), model.logits(&[9])].concat());
    let StepOutput::Logits(logits) =
        stage.step(&[group(b, 1, 1), group(a, 3, 1)], StepInput::Tokens(vec![8, 4])).unwrap()
    else {
        panic!("a last stage")
    };
    assert_eq!(logits, [model.logits(&[9, 8]), model.logits(&[1, 2, 3, 4])].concat());
}

#[test]
fn a_skipped_or_doubled_layer_changes_the_logits() {
    let model = ToyModel::new(4);
    let run = |spans: &[LayerSpan]| {
        let mut input = StepInput::Tokens(vec![5, 6]);
        for &span in spans {
            let mut stage = ToyStage::new(model, span);
            let slot = stage.open(8).unwrap();
            let group = StepGroup { slot, start: Position::new(0), rows: 2, sample: true };
            match stage.step(&[group], input).unwrap() {
                StepOutput::Activations(bytes) => input = StepInput::Activations(bytes),
                StepOutput::Logits(logits) => return logits,
            }
        }
        unreachable!()
    };
    let truth = model.logits(&[5, 6]);
    assert_eq!(run(&[span(0, 2), span(2, 4)]), truth);
    assert_ne!(run(&[span(0, 1), span(2, 4)]), truth);
    assert_ne!(run(&[span(0, 2), span(1, 4)]), truth);
}

#[test]
fn trimming_goes_back_in_time() {
    let model = ToyModel::new(2);
    let mut pipeline = Pipeline::new(model, 1);
    pipeline.feed(&[1, 2, 3, 4]);
    let (stage, slot) = &mut pipeline.stages[0];
    stage.trim(*slot, Position::new(2)).unwrap();
    pipeline.length = 2;
    assert_eq!(pipeline.feed(&[7]), model.logits(&[1, 2, 7]));
}

#[test]
fn bad_input_changes_nothing() {
    let model = ToyModel::new(2);
    let mut stage = ToyStage::new(model, span(0, 2));
    let slot = stage.open(2).unwrap();
    let group = |start, rows| StepGroup { slot, start: Position::new(start), rows, sample: true };
    let cases = [
        (group(1, 1), StepInput::Tokens(vec![1])),
        (group(0, 3), StepInput::Tokens(vec![1, 2, 3])),
        (group(0, 1), StepInput::Tokens(vec![64])),
        (group(0, 2), StepInput::Tokens(vec![1])),
        (group(0, 1), StepInput::Activations(vec![0; 32].into())),
    ];
    for (group, input) in cases {
        stage.step(&[group], input).unwrap_err();
    }
    assert_eq!(stage.kv_bytes(), 0);
    let StepOutput::Logits(logits) = stage.step(&[group(0, 1)], StepInput::Tokens(vec![3])).unwrap() else {
        panic!("a last stage")
    };
    assert_eq!(logits, model.logits(&[3]));
    stage.close(slot);
    assert_eq!(
        stage.step(&[group(1, 1)], StepInput::Tokens(vec![3])),
        Err(StageError::UnknownSlot(slot.get()))
    );
}

#[test]
fn a_step_that_was_given_up_or_lost_its_slot_leaves_nothing() {
    let model = ToyModel::new(4);
    let mut stage = ToyStage::new(model, span(0, 4));
    let (kept, lost) = (stage.open(8).unwrap(), stage.open(8).unwrap());
    let group = |slot| StepGroup { slot, start: Position::new(0), rows: 2, sample: true };
    let tokens = || StepInput::Tokens(vec![1, 2]);
    stage.begin(&[group(lost)], tokens()).unwrap();
    assert_eq!(stage.resume(2), Ok(None));
    stage.close(lost);
    assert_eq!(stage.resume(2), Err(StageError::UnknownSlot(lost.get())));
    assert!(stage.resume(2).is_err(), "nothing is under way");
    stage.begin(&[group(kept)], tokens()).unwrap();
    assert_eq!(stage.resume(3), Ok(None));
    stage.give_up();
    assert_eq!(stage.kv_bytes(), 0);
    assert_eq!(stage.step(&[group(kept)], tokens()), Ok(StepOutput::Logits(model.logits(&[1, 2]))));
}

#[test]
fn a_hook_can_fail_a_step_without_a_trace() {
    let model = ToyModel::new(1);
    let mut fail = true;
    let mut stage = ToyStage::new(model, span(0, 1)).with_hook(Box::new(move |_| {
        if std::mem::take(&mut fail) { Err(StageError::Compute("by the test".into())) } else { Ok(()) }
    }));
    let slot = stage.open(4).unwrap();
    let group = StepGroup { slot, start: Position::new(0), rows: 1, sample: true };
    stage.step(&[group], StepInput::Tokens(vec![1])).unwrap_err();
    stage.step(&[group], StepInput::Tokens(vec![1])).unwrap();
}
