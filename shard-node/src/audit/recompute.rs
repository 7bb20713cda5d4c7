//! A span computed again from its input, whole and in order: prefill, whatever it was when it was signed for.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use proto::{LayerSpan, Position};
use shard_node_stage::{Stage, StageError, StageShape, StepGroup, StepInput, StepOutput};

/// What a span gives for some of its rows.
#[derive(Debug, Default)]
pub struct Recomputed {
    /// What went in, `rows x hidden` elements of the wire type: of stage 0 the embeddings.
    pub input: Bytes,
    /// What its layers gave, likewise.
    pub output: Bytes,
    /// Logits of each row, if it is a last span and they were asked for; `vocab` each.
    pub logits: Vec<Vec<f32>>,
}

/// Computes rows `[0, input's end)` of a part of a stage's span, and gives those of `rows`. With `logits` a last span's rows
/// are computed one by one from the first of `rows` on, each with its logits.
///
/// # Errors
/// Those of [`Stage`]; [`StageError::Input`] for input that is no whole rows.
pub fn recompute(
    stage: &mut dyn Stage,
    part: LayerSpan,
    input: &StepInput,
    rows: Range<u32>,
    logits: bool,
) -> Result<Recomputed, StageError> {
    let shape = stage.shape();
    let total = match input {
        StepInput::Tokens(tokens) => tokens.len(),
        StepInput::Activations(bytes) => bytes.len() / shape.row_bytes().max(1),
    } as u32;
    if rows.end > total || rows.is_empty() {
        return Err(StageError::Input(format!("rows {}..{} of {total}", rows.start, rows.end)));
    }
    let slot = stage.open_part(part, total)?;
    let computed = Run { stage, shape, part, rows, logits }.run(slot, input);
    let Run { stage, .. } = computed.0;
    stage.close(slot);
    computed.1
}

struct Run<'a> {
    stage: &'a mut dyn Stage,
    shape: StageShape,
    part: LayerSpan,
    rows: Range<u32>,
    logits: bool,
}

impl Run<'_> {
    fn run(
        mut self,
        slot: shard_node_stage::KvSlot,
        input: &StepInput,
    ) -> (Self, Result<Recomputed, StageError>) {
        let result = self.steps(slot, input);
        (self, result)
    }

    fn steps(&mut self, slot: shard_node_stage::KvSlot, input: &StepInput) -> Result<Recomputed, StageError> {
        let last = self.part.end() == self.shape.n_layers;
        let by_row = self.logits && last;
        let (mut output, mut logits, mut at) = (BytesMut::new(), Vec::new(), 0);
        while at < self.rows.end {
            let wanted = at >= self.rows.start;
            // Up to the first row wanted nobody looks at what comes out.
            let end = if wanted { self.rows.end } else { self.rows.start };
            let count = if wanted && by_row { 1 } else { (end - at).min(CHUNK) };
            let group = StepGroup { slot, start: Position::new(at), rows: count, sample: wanted && by_row };
            let step = self.stage.step(&[group], slice(input, at, count, self.shape.row_bytes()))?;
            if wanted {
                match step {
                    StepOutput::Activations(rows) => output.extend_from_slice(&rows),
                    StepOutput::Logits(row) => {
                        output.extend_from_slice(&self.stage.last_rows()?);
                        logits.extend((!row.is_empty()).then_some(row));
                    }
                }
            }
            at += count;
        }
        let count = self.rows.end - self.rows.start;
        let input = match slice(input, self.rows.start, count, self.shape.row_bytes()) {
            StepInput::Tokens(tokens) => self.stage.embed(&tokens)?,
            StepInput::Activations(bytes) => bytes,
        };
        Ok(Recomputed { input, output: output.freeze(), logits })
    }
}

fn slice(input: &StepInput, from: u32, count: u32, row_bytes: usize) -> StepInput {
    let (from, to) = (from as usize, (from + count) as usize);
    match input {
        StepInput::Tokens(tokens) => StepInput::Tokens(tokens[from..to].to_vec()),
        StepInput::Activations(bytes) => {
            StepInput::Activations(bytes.slice(from * row_bytes..to * row_bytes))
        }
    }
}

/// Rows of a step: what a node computes at once of a prompt that nobody decodes beside.
const CHUNK: u32 = 256;

#[cfg(test)]
mod tests {
    use shard_node_stage::{ToyModel, ToyStage};

    use super::*;

    #[test]
    fn any_part_gives_what_it_gave_when_it_was_served() {
        let model = ToyModel::new(6);
        let whole = LayerSpan::new(0, 6).unwrap();
        let mut stage = ToyStage::new(model, whole);
        let tokens: Vec<u32> = (0..300).map(|at| at % 40).collect();
        let first = LayerSpan::new(0, 3).unwrap();
        let all = recompute(&mut stage, first, &StepInput::Tokens(tokens.clone()), 0..300, false).unwrap();
        let some = recompute(&mut stage, first, &StepInput::Tokens(tokens.clone()), 260..290, false).unwrap();
        let row_bytes = stage.shape().row_bytes();
        assert_eq!(some.output, all.output.slice(260 * row_bytes..290 * row_bytes));
        assert_eq!(some.input.len(), 30 * row_bytes);
        let rest = LayerSpan::new(3, 6).unwrap();
        let input = StepInput::Activations(all.output.clone());
        let tail = recompute(&mut stage, rest, &input, 280..300, true).unwrap();
        assert_eq!(tail.logits.len(), 20);
        assert_eq!(tail.logits[19], model.logits(&tokens));
        assert_eq!(tail.output.len(), 20 * row_bytes);
        assert!(recompute(&mut stage, rest, &input, 280..301, true).is_err());
        assert_eq!(stage.kv_bytes(), 0, "nothing is left open");
    }
}
