//! A stage that does not do what it says.

use bytes::{Bytes, BytesMut};
use proto::tensor::NumericsClass;
use proto::{LayerSpan, Position};
use shard_node_stage::{KvSlot, Stage, StageError, StageShape, StepGroup, StepInput, StepOutput};

/// What it does instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cheat {
    /// Nothing but what its class does.
    None,
    /// Leaves out one layer: its first one, or its last one where it embeds.
    Skip,
    /// Sends on what it received; where it embeds or is the last, it is honest.
    Identity,
    /// Moves the first value of each step.
    Tamper,
}

/// A stage behind a wrapper that lies.
pub(crate) struct CheatingStage {
    inner: Box<dyn Stage>,
    announced: NumericsClass,
    cheat: Cheat,
    /// What went into a step in pieces.
    under_way: Option<StepInput>,
}

impl CheatingStage {
    pub(crate) fn new(inner: Box<dyn Stage>, announced: NumericsClass, cheat: Cheat) -> Self {
        Self { inner, announced, cheat, under_way: None }
    }

    fn spoil(&self, input: Option<StepInput>, output: StepOutput) -> StepOutput {
        match (self.cheat, input, output) {
            (Cheat::Identity, Some(StepInput::Activations(rows)), StepOutput::Activations(_)) => {
                StepOutput::Activations(rows)
            }
            (Cheat::Tamper, _, StepOutput::Activations(rows)) => StepOutput::Activations(self.moved(&rows)),
            (_, _, output) => output,
        }
    }

    /// Another exponent, so that it is another value by a factor.
    fn moved(&self, rows: &Bytes) -> Bytes {
        let mut rows = BytesMut::from(&rows[..]);
        if let Some(byte) = rows.get_mut(self.announced.wire_dtype().bytes() - 1) {
            *byte ^= 1;
        }
        rows.freeze()
    }
}

impl Stage for CheatingStage {
    fn shape(&self) -> StageShape {
        StageShape { class: self.announced, ..self.inner.shape() }
    }

    fn open_part(&mut self, part: LayerSpan, max_positions: u32) -> Result<KvSlot, StageError> {
        let part = match self.cheat {
            Cheat::Skip if part.len() > 1 && part.start() > 0 => {
                LayerSpan::new(part.start() + 1, part.end()).unwrap_or(part)
            }
            Cheat::Skip if part.len() > 1 => LayerSpan::new(part.start(), part.end() - 1).unwrap_or(part),
            _ => part,
        };
        self.inner.open_part(part, max_positions)
    }

    fn close(&mut self, slot: KvSlot) {
        self.inner.close(slot);
    }

    fn trim(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.inner.trim(slot, length)
    }

    fn copy(&mut self, from: KvSlot, to: KvSlot, length: Position) -> Result<(), StageError> {
        self.inner.copy(from, to, length)
    }

    fn retain(&mut self, slot: KvSlot, length: Position) -> Result<(), StageError> {
        self.inner.retain(slot, length)
    }

    fn step(&mut self, groups: &[StepGroup], input: StepInput) -> Result<StepOutput, StageError> {
        let kept = (self.cheat == Cheat::Identity).then(|| input.clone());
        let output = self.inner.step(groups, input)?;
        Ok(self.spoil(kept, output))
    }

    fn begin(&mut self, groups: &[StepGroup], input: StepInput) -> Result<(), StageError> {
        self.under_way = (self.cheat == Cheat::Identity).then(|| input.clone());
        self.inner.begin(groups, input)
    }

    fn resume(&mut self, layers: u32) -> Result<Option<StepOutput>, StageError> {
        let output = self.inner.resume(layers)?;
        Ok(output.map(|output| {
            let input = self.under_way.take();
            self.spoil(input, output)
        }))
    }

    fn give_up(&mut self) {
        self.under_way = None;
        self.inner.give_up();
    }

    fn embed(&mut self, tokens: &[u32]) -> Result<Bytes, StageError> {
        self.inner.embed(tokens)
    }

    fn last_rows(&mut self) -> Result<Bytes, StageError> {
        let rows = self.inner.last_rows()?;
        Ok(if self.cheat == Cheat::Tamper { self.moved(&rows) } else { rows })
    }

    fn kv_bytes(&self) -> u64 {
        self.inner.kv_bytes()
    }

    fn idle(&mut self, wait: &mut dyn FnMut()) {
        self.inner.idle(wait);
    }
}
