//! How many compute threads a loaded stage uses, chosen by a measurement where the class allows it.
//!
//! A step of few rows is one read of the weights: from some number of threads on, more of them wait for the same
//! memory and only take time from other processes. A step of many rows computes, and takes every core. Which threads
//! split a sum may change its last bits, so class `exact` has one thread and measures nothing; the other classes
//! promise no bits (decision 0012).

use std::time::Instant;

use shard_node_stage::{Stage as _, StageError, StepGroup};
use tch::Tensor;

use crate::ffi::{self, TorchError};
use crate::rows::StepRows;
use crate::stage::TorchStage;

/// Compute threads of a stage: libtorch's own and those of our team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threads {
    /// For steps of at most [`FEW_ROWS`] rows.
    few_rows: usize,
    many_rows: usize,
    now: usize,
}

impl Threads {
    /// The same number for every step.
    pub(crate) fn fixed(threads: usize) -> Result<Self, TorchError> {
        set(threads)?;
        Ok(Self { few_rows: threads, many_rows: threads, now: threads })
    }

    /// The larger number.
    pub(crate) fn most(self) -> usize {
        self.many_rows
    }

    /// Before a step of so many rows. Costs nothing where both numbers are the same, else some 0.1 ms at each change.
    pub(crate) fn set_for(&mut self, rows: usize) -> Result<(), TorchError> {
        let wanted = if rows <= FEW_ROWS { self.few_rows } else { self.many_rows };
        if wanted != self.now {
            set(wanted)?;
            self.now = wanted;
        }
        Ok(())
    }
}

/// Measures a loaded stage with several numbers of threads, up to the one it has. Takes a fraction of a second.
pub(crate) fn measured(stage: &mut TorchStage) -> Result<Threads, StageError> {
    let most = stage.threads.most();
    if most == 1 {
        return Ok(stage.threads);
    }
    let layers = layers_worth(stage);
    let mut times = Vec::new();
    for threads in candidates(most) {
        set(threads)?;
        let mut best = f64::MAX;
        for _ in 0..PASSES {
            best = best.min(pass(stage, layers)?);
        }
        times.push((threads, best));
    }
    let few_rows = fewest(&times);
    set(few_rows)?;
    let milliseconds: Vec<_> =
        times.iter().map(|(threads, best)| format!("{threads}: {:.2}", best * 1e3)).collect();
    tracing::info!(
        few_rows,
        many_rows = most,
        milliseconds = milliseconds.join(", "),
        "compute threads, measured"
    );
    Ok(Threads { few_rows, many_rows: most, now: few_rows })
}

/// The smallest number that is nearly as fast as the fastest.
fn fewest(times: &[(usize, f64)]) -> usize {
    let best = times.iter().map(|&(_, seconds)| seconds).fold(f64::MAX, f64::min);
    let near = times.iter().filter(|&&(_, seconds)| seconds <= best * NEARLY);
    near.map(|&(threads, _)| threads).min().unwrap_or(1)
}

/// 1, 2, 4, ... and, near the top, three quarters and all.
fn candidates(most: usize) -> Vec<usize> {
    let mut candidates: Vec<usize> =
        std::iter::successors(Some(1), |threads| Some(threads * 2)).take_while(|&n| n < most).collect();
    candidates.extend([(most * 3 / 4).max(1), most]);
    candidates.sort_unstable();
    candidates.dedup();
    candidates
}

/// So many of the first layers that their weights don't stay in the caches.
fn layers_worth(stage: &TorchStage) -> usize {
    let mut bytes = 0;
    let enough = stage.layers.iter().position(|layer| {
        bytes += layer.row_bytes();
        bytes >= ENOUGH_BYTES
    });
    enough.map_or(stage.layers.len(), |last| last + 1)
}

/// Seconds of a row's way through the first layers.
fn pass(stage: &mut TorchStage, layers: usize) -> Result<f64, StageError> {
    let slot = stage.open(1)?;
    stage.kv.grow(slot, 1)?;
    let group = StepGroup { slot, start: proto::Position::new(0), rows: 1, sample: false };
    let kind = stage.numerics.linear.activation_kind();
    let row = [1, i64::from(stage.shape.hidden)];
    let mut x = Tensor::f_ones(row, (kind, stage.device))
        .map_err(|error| StageError::from(TorchError::from(error)))?;
    let row_by_row = stage.numerics.row_by_row();
    let begun = now();
    let mut rows = StepRows::new(&[group], 0, &mut stage.kv, &stage.rotary, stage.heads, row_by_row);
    for (index, layer) in stage.layers[..layers].iter().enumerate() {
        if index > 0 {
            rows.next_layer();
        }
        x = layer.forward(&x, &mut rows)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    stage.close(slot);
    Ok(seconds)
}

fn set(threads: usize) -> Result<(), TorchError> {
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    ffi::team(threads)
}

#[expect(clippy::disallowed_methods, reason = "a measurement at start, of nothing that a peer sees")]
fn now() -> Instant {
    Instant::now()
}

/// Up to here a step waits for memory more than for arithmetic.
const FEW_ROWS: usize = 8;
/// Slower by less than the noise of a measurement this short.
const NEARLY: f64 = 1.03;
/// Of each candidate; the best counts.
const PASSES: usize = 5;
/// Eight times a large last-level cache; read in 15 ms at 20 GB/s.
const ENOUGH_BYTES: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_threads_within_the_noise_are_taken() {
        assert_eq!(fewest(&[(1, 2.0), (2, 1.02), (4, 1.0), (8, 1.0)]), 2);
        assert_eq!(fewest(&[(1, 2.0), (2, 1.1), (4, 1.0)]), 4);
        assert_eq!(fewest(&[(1, 1.0), (2, 1.0)]), 1);
    }

    #[test]
    fn candidates_end_with_all_cores() {
        assert_eq!(candidates(1), [1]);
        assert_eq!(candidates(2), [1, 2]);
        assert_eq!(candidates(3), [1, 2, 3]);
        assert_eq!(candidates(16), [1, 2, 4, 8, 12, 16]);
    }
}
