//! Decode and prefill steps of one stage. Sessions stay open from one measurement to the next, cut back to where they
//! began, so that filling their KV is paid for once.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use proto::Position;
use shard_node_stage::{KvSlot, Stage, StepGroup, StepInput};

/// A stage and its sessions.
pub(crate) struct Steps {
    stage: Box<dyn Stage>,
    slots: Vec<KvSlot>,
    /// Moves on from step to step, so that tokens differ.
    next_token: u32,
}

impl Steps {
    pub(crate) fn new(stage: Box<dyn Stage>) -> Self {
        Self { stage, slots: Vec::new(), next_token: 1 }
    }

    /// Median seconds of a step with one row of each of `sessions` sessions, from position [`KV`].
    pub(crate) fn decode(&mut self, sessions: u32) -> Result<f64> {
        while self.slots.len() < sessions as usize {
            let slot = self.stage.open(KV + STEPS)?;
            for start in (0..KV).step_by(CHUNK as usize) {
                self.step(&[group(slot, start, CHUNK)])?;
            }
            self.slots.push(slot);
        }
        let slots = self.slots[..sessions as usize].to_vec();
        let mut seconds = Vec::with_capacity(STEPS as usize);
        for step in 0..STEPS {
            let groups: Vec<_> = slots.iter().map(|&slot| group(slot, KV + step, 1)).collect();
            seconds.push(self.step(&groups)?);
        }
        for slot in slots {
            self.stage.trim(slot, Position::new(KV))?;
        }
        // The first step after a pause or after another batch size finds cold caches and sleeping threads.
        let mut seconds = seconds.split_off(2);
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    /// Seconds for a prompt of `rows` tokens in steps of `chunk`.
    pub(crate) fn prefill(&mut self, rows: u32, chunk: u32) -> Result<f64> {
        let slot = self.stage.open(rows)?;
        let mut seconds = 0.0;
        for start in (0..rows).step_by(chunk.max(1) as usize) {
            seconds += self.step(&[group(slot, start, chunk.min(rows - start))])?;
        }
        self.stage.close(slot);
        Ok(seconds)
    }

    pub(crate) fn kv_bytes(&self) -> u64 {
        self.stage.kv_bytes()
    }

    fn step(&mut self, groups: &[StepGroup]) -> Result<f64> {
        let shape = self.stage.shape();
        let rows: u32 = groups.iter().map(|group| group.rows).sum();
        let input = if shape.is_first() {
            self.next_token += rows;
            StepInput::Tokens((0..rows).map(|row| (self.next_token + row) * 7919 % shape.vocab).collect())
        } else {
            StepInput::Activations(Bytes::from(vec![0x3c; rows as usize * shape.row_bytes()]))
        };
        let begun = Instant::now();
        std::hint::black_box(self.stage.step(groups, input)?);
        Ok(begun.elapsed().as_secs_f64())
    }
}

fn group(slot: KvSlot, start: u32, rows: u32) -> StepGroup {
    StepGroup { slot, start: Position::new(start), rows, sample: true }
}

/// Positions before the measured ones.
const KV: u32 = 256;
/// Rows of a step that fills the KV.
const CHUNK: u32 = 256;
/// Steps of one measurement, the first two of which do not count.
const STEPS: u32 = 10;
