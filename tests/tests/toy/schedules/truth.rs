//! What the model itself answers, without a pipeline.

use proto::{LayerSpan, Position};
use proto_sampling::{Sampler, Scratch, TokenCounts};
use shard_node_stage::{Stage, StepGroup, StepInput, StepOutput, ToyModel, ToyStage};

use super::draw::Stream;

/// The whole answer to a stream's request, by one stage row by row; its last token is held against the model's other
/// way of computing.
pub(super) fn truth(model: ToyModel, stream: &Stream) -> Vec<u32> {
    let mut stage = ToyStage::new(model, LayerSpan::new(0, model.n_layers).unwrap());
    let most = stream.request.max_tokens as usize;
    let slot = stage.open((stream.prompt.len() + most) as u32).unwrap();
    let sampler = Sampler::new(&stream.request.sampling, model.vocab as usize).unwrap();
    let mut counts = TokenCounts::from_prompt(&stream.prompt);
    let (mut scratch, mut tokens) = (Scratch::default(), stream.prompt.clone());
    let mut next = tokens.clone();
    for left in (0..most).rev() {
        let start = Position::new((tokens.len() - next.len()) as u32);
        let group = StepGroup { slot, start, rows: next.len() as u32, sample: true };
        let StepOutput::Logits(mut logits) = stage.step(&[group], StepInput::Tokens(next)).unwrap() else {
            panic!("a stage of all layers gives logits");
        };
        if left == 0 {
            assert_eq!(logits, model.logits(&tokens));
        }
        let position = Position::new(tokens.len() as u32);
        let token = sampler.sample(&mut logits, &counts, position, None, &mut scratch).unwrap().token;
        counts.push_generated(token);
        tokens.push(token);
        next = vec![token];
    }
    tokens.split_off(stream.prompt.len())
}
