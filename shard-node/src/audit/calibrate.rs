//! How far honest nodes are from one another: spans as a pipeline serves them, in batches and row by row, against the
//! same rows computed again by prefill, as an auditor does.

use bytes::{Bytes, BytesMut};
use proto::session::SamplingParams;
use proto::{ContentHash, LayerSpan, Position};
use proto_attest::calibration::{Honest, SpanCalibration, Statistic};
use proto_attest::delta::{ChunkDelta, DeltaError, chunk_deltas, rows_from_wire, session_mean};
use proto_sampling::{ParameterError, SampleError, Sampler, Scratch, TokenCounts};
use shard_node_stage::{KvSlot, Stage, StageError, StepGroup, StepInput, StepOutput};

use super::recompute;

/// What is measured.
#[derive(Debug, Clone)]
pub struct CalibrationPlan {
    /// Spans that tile the model, as hops have them.
    pub spans: Vec<LayerSpan>,
    /// Answers that are computed at once, one run each.
    pub batches: Vec<u32>,
    /// Tokens of each answer.
    pub tokens: u32,
    /// What answers begin with, in turn: texts as they are served, as noise depends on what is computed.
    pub prompts: Vec<Vec<u32>>,
    /// Other seeds give other answers.
    pub seed: u64,
}

/// Honest values by span, and what they are of.
#[derive(Debug)]
pub struct Calibrated {
    /// One for each span of the plan.
    pub spans: Vec<SpanCalibration>,
    /// A hash of all prompts.
    pub prompts: ContentHash,
    /// Chunks measured of each span.
    pub chunks: u64,
}

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The stage.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Its rows.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// Its logits.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// Our own parameters.
    #[error(transparent)]
    Parameters(#[from] ParameterError),
    /// Nothing to begin with.
    #[error("a calibration needs prompts, and none of them may be empty")]
    NoPrompt,
    /// The spans are not all of the model's layers in order, or the stage does not hold them.
    #[error("the spans must tile all {0} layers, and the stage hold them")]
    Spans(u32),
    /// Values that no honest node gives.
    #[error("what was computed twice is not finite, or there is none of it")]
    NotFinite,
}

/// Measures. `told` hears of each batch that is done.
pub fn calibrate(
    stage: &mut dyn Stage,
    plan: &CalibrationPlan,
    told: &mut dyn FnMut(u32),
) -> Result<Calibrated, CalibrateError> {
    let shape = stage.shape();
    let whole = shape.span.start() == 0 && shape.span.end() == shape.n_layers;
    if !whole || !LayerSpan::tile(plan.spans.iter().copied(), shape.n_layers) {
        return Err(CalibrateError::Spans(shape.n_layers));
    }
    let mut values: Vec<Measured> = vec![Measured::default(); plan.spans.len()];
    let (mut prompts, mut number) = (Vec::new(), 0usize);
    for &batch in &plan.batches {
        let answers = (0..batch).map(|_| {
            let answer = Answer::new(plan, number, shape.vocab);
            number += 1;
            answer
        });
        let mut answers: Vec<Answer> = answers.collect::<Result<_, _>>()?;
        for answer in &answers {
            prompts.extend(answer.tokens.iter().flat_map(|token| token.to_le_bytes()));
        }
        Served { stage, plan, answers: &mut answers }.run()?;
        for answer in &answers {
            answer.compare(stage, plan, &mut values)?;
        }
        told(batch);
    }
    let of = |(span, measured): (&LayerSpan, &Measured)| {
        let of_values =
            |statistic, values: &[f64]| Honest::of(statistic, values).ok_or(CalibrateError::NotFinite);
        let honest = |statistic, read: fn(&ChunkDelta) -> f64| {
            let values: Vec<f64> = measured.chunks.iter().map(read).collect();
            of_values(statistic, &values)
        };
        Ok(SpanCalibration {
            start: span.start(),
            end: span.end(),
            statistics: vec![
                honest(Statistic::RelativeL2, |delta| delta.relative_l2)?,
                honest(Statistic::WorstRow, |delta| delta.worst_row)?,
                of_values(Statistic::SessionMean, &measured.sessions)?,
            ],
        })
    };
    let spans: Vec<SpanCalibration> =
        plan.spans.iter().zip(&values).map(of).collect::<Result<_, CalibrateError>>()?;
    let chunks = values.first().map_or(0, |measured| measured.chunks.len()) as u64;
    Ok(Calibrated { spans, prompts: ContentHash::of(&prompts), chunks })
}

/// What one span gave.
#[derive(Debug, Clone, Default)]
struct Measured {
    chunks: Vec<ChunkDelta>,
    sessions: Vec<f64>,
}

/// One answer on its way through all spans.
struct Answer {
    sampler: Sampler,
    counts: TokenCounts,
    /// Rows of the prompt.
    prompt: u32,
    /// Prompt, and behind it what was chosen.
    tokens: Vec<u32>,
    /// A slot of each span.
    slots: Vec<KvSlot>,
    /// What each span sent.
    sent: Vec<BytesMut>,
}

impl Answer {
    fn new(plan: &CalibrationPlan, number: usize, vocab: u32) -> Result<Self, CalibrateError> {
        let prompt = number.checked_rem(plan.prompts.len()).and_then(|index| plan.prompts.get(index));
        let tokens = prompt.cloned().filter(|tokens| !tokens.is_empty()).ok_or(CalibrateError::NoPrompt)?;
        // Another seed each time that a prompt's turn comes.
        let seed = plan.seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
        let params = SamplingParams { temperature: 0.7, top_p: 0.95, seed, ..Default::default() };
        Ok(Self {
            sampler: Sampler::new(&params, vocab as usize)?,
            counts: TokenCounts::from_prompt(&tokens),
            prompt: tokens.len() as u32,
            tokens,
            slots: Vec::new(),
            sent: vec![BytesMut::new(); plan.spans.len()],
        })
    }

    fn choose(&mut self, logits: &mut [f32], scratch: &mut Scratch) -> Result<(), CalibrateError> {
        let position = Position::new(self.tokens.len() as u32);
        let choice = self.sampler.sample(logits, &self.counts, position, None, scratch)?;
        self.counts.push_generated(choice.token);
        self.tokens.push(choice.token);
        Ok(())
    }

    /// Each span's rows again, by prefill from what it received.
    fn compare(
        &self,
        stage: &mut dyn Stage,
        plan: &CalibrationPlan,
        values: &mut [Measured],
    ) -> Result<(), CalibrateError> {
        let shape = stage.shape();
        let dtype = shape.class.wire_dtype();
        let rows = (self.sent[0].len() / shape.row_bytes()) as u32;
        for (index, &span) in plan.spans.iter().enumerate() {
            let input = match index {
                0 => StepInput::Tokens(self.tokens[..rows as usize].to_vec()),
                _ => StepInput::Activations(Bytes::copy_from_slice(&self.sent[index - 1])),
            };
            let again = recompute(stage, span, &input, 0..rows, false)?;
            let input = rows_from_wire(&again.input, dtype)?;
            let (committed, recomputed) =
                (rows_from_wire(&self.sent[index], dtype)?, rows_from_wire(&again.output, dtype)?);
            let hidden = shape.hidden as usize;
            // As receipts cut them: prompt rows apart from those of tokens.
            let cut = (self.prompt as usize * hidden).min(input.len());
            let of = |from: usize, to: usize| {
                chunk_deltas(&input[from..to], &committed[from..to], &recomputed[from..to], hidden)
            };
            let mut deltas = of(0, cut)?;
            deltas.extend(of(cut, input.len())?);
            values[index].sessions.push(session_mean(&deltas));
            values[index].chunks.extend(deltas);
        }
        Ok(())
    }
}

/// A batch that is served.
struct Served<'a> {
    stage: &'a mut dyn Stage,
    plan: &'a CalibrationPlan,
    answers: &'a mut [Answer],
}

impl Served<'_> {
    fn run(&mut self) -> Result<(), CalibrateError> {
        for answer in self.answers.iter_mut() {
            let positions = answer.tokens.len() as u32 + self.plan.tokens;
            let slots = self.plan.spans.iter().map(|&span| self.stage.open_part(span, positions));
            answer.slots = slots.collect::<Result<_, _>>()?;
        }
        let done = self.steps();
        for slot in self.answers.iter().flat_map(|answer| &answer.slots) {
            self.stage.close(*slot);
        }
        done
    }

    fn steps(&mut self) -> Result<(), CalibrateError> {
        let mut scratch = Scratch::default();
        // Prompts one by one, in chunks that differ; answers together.
        for index in 0..self.answers.len() {
            let length = self.answers[index].tokens.len();
            let chunk = [length, 16, 33][index % 3];
            let mut at = 0;
            while at < length {
                let to = (at + chunk).min(length);
                let logits = self.step(&[(index, at, to)])?;
                if to == length {
                    self.choose(&[index], logits, &mut scratch)?;
                }
                at = to;
            }
        }
        let all: Vec<usize> = (0..self.answers.len()).collect();
        for _ in 1..self.plan.tokens {
            let rows = all.iter().map(|&index| {
                let length = self.answers[index].tokens.len();
                (index, length - 1, length)
            });
            let rows: Vec<_> = rows.collect();
            let logits = self.step(&rows)?;
            self.choose(&all, logits, &mut scratch)?;
        }
        Ok(())
    }

    fn choose(
        &mut self,
        answers: &[usize],
        mut logits: Vec<f32>,
        scratch: &mut Scratch,
    ) -> Result<(), CalibrateError> {
        let vocab = self.stage.shape().vocab as usize;
        for (&index, logits) in answers.iter().zip(logits.chunks_exact_mut(vocab.max(1))) {
            self.answers[index].choose(logits, scratch)?;
        }
        Ok(())
    }

    /// Rows of answers through all spans; gives a row of logits for each.
    fn step(&mut self, rows: &[(usize, usize, usize)]) -> Result<Vec<f32>, CalibrateError> {
        let tokens = rows.iter().flat_map(|&(index, from, to)| &self.answers[index].tokens[from..to]);
        let mut input = StepInput::Tokens(tokens.copied().collect());
        let row_bytes = self.stage.shape().row_bytes();
        for span in 0..self.plan.spans.len() {
            let last = span + 1 == self.plan.spans.len();
            let group = |&(index, from, to): &(usize, usize, usize)| StepGroup {
                slot: self.answers[index].slots[span],
                start: Position::new(from as u32),
                rows: (to - from) as u32,
                sample: last,
            };
            let groups: Vec<StepGroup> = rows.iter().map(group).collect();
            let output = self.stage.step(&groups, input)?;
            let (sent, logits) = match output {
                StepOutput::Activations(rows) => (rows, None),
                StepOutput::Logits(logits) => (self.stage.last_rows()?, Some(logits)),
            };
            let mut at = 0;
            for &(index, from, to) in rows {
                let end = at + (to - from) * row_bytes;
                self.answers[index].sent[span].extend_from_slice(&sent[at..end]);
                at = end;
            }
            if let Some(logits) = logits {
                return Ok(logits);
            }
            input = StepInput::Activations(sent);
        }
        Err(StageError::Input("the last span gave no logits".into()).into())
    }
}

#[cfg(test)]
mod tests {
    use shard_node_stage::{ToyModel, ToyStage};

    use super::*;

    fn plan(spans: &[(u32, u32)]) -> CalibrationPlan {
        let spans = spans.iter().map(|&(start, end)| LayerSpan::new(start, end).unwrap()).collect();
        let prompts = (0..5).map(|number| (0..10 + number).collect()).collect();
        CalibrationPlan { spans, batches: vec![1, 3], tokens: 40, prompts, seed: 1 }
    }

    #[test]
    fn a_stage_that_gives_the_same_bits_is_off_by_nothing() {
        let mut stage = ToyStage::new(ToyModel::new(6), LayerSpan::new(0, 6).unwrap());
        let mut batches = Vec::new();
        let plan = plan(&[(0, 2), (2, 5), (5, 6)]);
        let calibrated = calibrate(&mut stage, &plan, &mut |batch| batches.push(batch)).unwrap();
        assert_eq!(batches, [1, 3]);
        assert_eq!(calibrated.spans.len(), 3);
        for span in &calibrated.spans {
            assert!(span.statistics.iter().all(|honest| honest.max == 0.0));
            assert_eq!(span.statistics[0].chunks, calibrated.chunks);
        }
        // Four answers: a prompt of one chunk, 39 rows of tokens.
        assert_eq!(calibrated.chunks, 4 * 3);
        assert_eq!(stage.kv_bytes(), 0);
        let prompts = vec![vec![3, 4]];
        let other = calibrate(&mut stage, &CalibrationPlan { prompts, ..plan.clone() }, &mut |_| {}).unwrap();
        assert_ne!(other.prompts, calibrated.prompts);
        let nothing = CalibrationPlan { prompts: vec![vec![]], ..plan };
        assert!(matches!(calibrate(&mut stage, &nothing, &mut |_| {}), Err(CalibrateError::NoPrompt)));
    }

    #[test]
    fn spans_must_be_the_whole_model() {
        let mut stage = ToyStage::new(ToyModel::new(6), LayerSpan::new(0, 6).unwrap());
        for spans in [&[(0, 5)][..], &[(1, 6)], &[(0, 3), (2, 6)]] {
            assert!(matches!(
                calibrate(&mut stage, &plan(spans), &mut |_| {}),
                Err(CalibrateError::Spans(6))
            ));
        }
    }
}
