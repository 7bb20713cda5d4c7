//! What the engine's tests share: running a model as a row of stages in one thread.

use bytes::Bytes;
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};
use shard_node_engine::{DeviceChoice, EngineOptions, load};
use shard_node_stage::{KvSlot, Stage, StepGroup, StepInput, StepOutput};
use std::path::Path;

/// A model as stages, one after the other.
pub(crate) struct Pipeline {
    pub(crate) stages: Vec<Box<dyn Stage>>,
}

/// One session: its slot in every stage and its length.
pub(crate) struct Session {
    pub(crate) slots: Vec<KvSlot>,
    pub(crate) length: u32,
}

/// Rows of one session in a step.
pub(crate) struct Part<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) tokens: &'a [u32],
}

impl Pipeline {
    /// Loads the stages of `spans` on this thread.
    pub(crate) fn load(model: &Path, spans: &[(u32, u32)], class: NumericsClass) -> Self {
        let stages = spans.iter().map(|&(start, end)| {
            let options = EngineOptions {
                model: model.to_owned(),
                span: LayerSpan::new(start, end).expect("a span"),
                class,
                device: DeviceChoice::Cpu,
                threads: Some(1),
                manifest: None,
            };
            load(&options, |_| ()).unwrap_or_else(|error| panic!("load {start}..{end}: {error}"))
        });
        Self { stages: stages.collect() }
    }

    pub(crate) fn open(&mut self, positions: u32) -> Session {
        Session {
            slots: self.stages.iter_mut().map(|stage| stage.open(positions).unwrap()).collect(),
            length: 0,
        }
    }

    pub(crate) fn close(&mut self, session: Session) {
        for (stage, slot) in self.stages.iter_mut().zip(session.slots) {
            stage.close(slot);
        }
    }

    /// One micro-batch through all stages; the logits of each part's last row.
    pub(crate) fn step(&mut self, parts: &mut [Part<'_>]) -> Vec<Vec<f32>> {
        let tokens = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let mut input = StepInput::Tokens(tokens);
        let vocab = self.stages[0].shape().vocab as usize;
        for (index, stage) in self.stages.iter_mut().enumerate() {
            let groups: Vec<StepGroup> = parts
                .iter()
                .map(|part| StepGroup {
                    slot: part.session.slots[index],
                    start: Position::new(part.session.length),
                    rows: part.tokens.len() as u32,
                    sample: true,
                })
                .collect();
            match stage.step(&groups, input).unwrap() {
                StepOutput::Activations(bytes) => input = StepInput::Activations(Bytes::from(bytes.to_vec())),
                StepOutput::Logits(logits) => {
                    for part in parts {
                        part.session.length += part.tokens.len() as u32;
                    }
                    return logits.chunks(vocab).map(<[f32]>::to_vec).collect();
                }
            }
        }
        panic!("the last stage gave no logits");
    }

    /// One session's rows through all stages.
    pub(crate) fn feed(&mut self, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
        self.step(&mut [Part { session, tokens }]).remove(0)
    }

    /// Greedy continuation of a prompt, up to one of `stop`.
    pub(crate) fn greedy(&mut self, prompt: &[u32], most: usize, stop: &[u32]) -> Vec<u32> {
        let mut session = self.open((prompt.len() + most) as u32);
        let mut token = argmax(&self.feed(&mut session, prompt));
        let mut tokens = vec![];
        while tokens.len() < most && !stop.contains(&token) {
            tokens.push(token);
            if tokens.len() < most {
                token = argmax(&self.feed(&mut session, &[token]));
            }
        }
        self.close(session);
        tokens
    }
}

/// The first of the largest.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = index;
        }
    }
    best as u32
}
