//! The demo model, SmolLM2-135M-Instruct, from its GGUF.

use std::path::PathBuf;

use crate::pipeline::Pipeline;
use proto::tensor::NumericsClass;

fn model() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.is_file(), "{} is not there: run `cargo xtask setup` first", path.display());
    path
}

/// The chat template around "What is gravity?", with the template's own system message.
const PROMPT: [u32; 34] = [
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182,
    2, 198, 1, 4093, 198, 1780, 314, 9354, 47, 2, 198, 1, 520, 9531, 198,
];
/// "Gravity is a fundamental concept in physics".
const ANSWER: [u32; 8] = [22007, 6463, 314, 253, 4959, 1909, 281, 6944];

#[test]
fn gravity_is_a_fundamental_concept_in_bf16() {
    let mut one = Pipeline::load(&model(), &[(0, 30)], NumericsClass::Bf16);
    let answer = one.greedy(&PROMPT, 40, &[2]);
    assert_eq!(answer[..8], ANSWER, "{answer:?}");
    drop(one);
    let mut three = Pipeline::load(&model(), &[(0, 10), (10, 20), (20, 30)], NumericsClass::Bf16);
    assert_eq!(three.greedy(&PROMPT, 40, &[2]), answer, "three stages against one");
}

#[test]
fn gravity_is_a_fundamental_concept_in_exact() {
    let mut pipeline = Pipeline::load(&model(), &[(0, 30)], NumericsClass::Exact);
    let answer = pipeline.greedy(&PROMPT, 12, &[2]);
    assert_eq!(answer[..8], ANSWER, "{answer:?}");
}
