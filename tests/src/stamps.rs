//! When a tail had each token of each session: what a client's reading is measured against, within one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use proto::{LayerSpan, Position};
use shard_node_stage::{
    KvSlot, Stage, StageError, StageLoader, StageShape, StepGroup, StepInput, StepOutput, ToyStage,
};
use tokio::time::Instant;

/// The times at which a tail had the logits of tokens. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Stamps(Arc<Mutex<HashMap<u32, Vec<Instant>>>>);

impl Stamps {
    /// A loader of `stage`, a last one, whose tokens are stamped.
    pub fn loader(&self, stage: ToyStage) -> StageLoader {
        let stamped = Stamped { stage, stamps: self.clone(), sessions: HashMap::new(), begun: Vec::new() };
        Box::new(move || Ok(Box::new(stamped)))
    }

    /// The times of a session's tokens in order. It is known by the positions that it reserved, prompt and
    /// `max_tokens`, which a test makes different for each.
    pub fn of(&self, max_positions: u32) -> Vec<Instant> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&max_positions).cloned().unwrap_or_default()
    }

    fn stamp(&self, sampled: impl Iterator<Item = u32>) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for max_positions in sampled {
            all.entry(max_positions).or_default().push(now);
        }
    }
}

#[derive(Debug)]
struct Stamped {
    stage: ToyStage,
    stamps: Stamps,
    /// What each slot reserved.
    sessions: HashMap<u32, u32>,
    /// Of the step under way.
    begun: Vec<StepGroup>,
}

impl Stamped {
    fn stamp(&self, groups: &[StepGroup]) {
        let sampled = groups.iter().filter(|group| group.sample);
        self.stamps.stamp(sampled.filter_map(|group| self.sessions.get(&group.slot.get()).copied()));
    }
}

impl Stage for Stamped {
    fn shape(&self) -> StageShape {
        self.stage.shape()
    }

    fn open_part(&mut self, part: LayerSpan, max_positions: u32) -> Result<KvSlot, StageError> {
        let slot = self.stage.open_part(part, max_positions)?;
        self.sessions.insert(slot.get(), max_positions);
        Ok(slot)
    }

    fn close(&mut self, slot: KvSlot) {
        self.sessions.remove(&slot.get());
        self.stage.close(slot);
    }

    fn trim(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.stage.trim(slot, length)
    }

    fn copy(&mut self, from: KvSlot, to: KvSlot, length: Position) -> Result<(), StageError> {
        self.stage.copy(from, to, length)
    }

    fn retain(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.stage.retain(slot, length)
    }

    fn step(&mut self, groups: &[StepGroup], input: StepInput) -> Result<StepOutput, StageError> {
        let output = self.stage.step(groups, input)?;
        self.stamp(groups);
        Ok(output)
    }

    fn begin(&mut self, groups: &[StepGroup], input: StepInput) -> Result<(), StageError> {
        self.begun = groups.to_vec();
        self.stage.begin(groups, input)
    }

    fn resume(&mut self, layers: u32) -> Result<Option<StepOutput>, StageError> {
        let output = self.stage.resume(layers)?;
        if output.is_some() {
            let begun = std::mem::take(&mut self.begun);
            self.stamp(&begun);
        }
        Ok(output)
    }

    fn give_up(&mut self) {
        self.stage.give_up();
    }

    fn embed(&mut self, tokens: &[u32]) -> Result<Bytes, StageError> {
        self.stage.embed(tokens)
    }

    fn last_rows(&mut self) -> Result<Bytes, StageError> {
        self.stage.last_rows()
    }

    fn kv_bytes(&self) -> u64 {
        self.stage.kv_bytes()
    }
}
