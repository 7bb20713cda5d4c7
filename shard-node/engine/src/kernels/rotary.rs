//! Rotary position embedding: the angles of an architecture and their table.
//!
//! Halves layout: element `i` of a head turns with element `i + dim / 2`, as in HF checkpoints
//! (Su et al. 2021, <https://arxiv.org/abs/2104.09864>).

use std::f64::consts::TAU;

use proto::manifest::{Architecture, RopeScaling};
use tch::{Device, Tensor};

use crate::ffi::TorchError;

/// The tables of an architecture.
#[derive(Debug)]
pub(crate) struct Rotary {
    whole: Table,
    /// That of the layers with a window, where it differs.
    local: Option<Table>,
}

/// Which table a layer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotaryBase {
    /// That of most models and layers.
    Whole,
    /// That of layers with a window in families which give those a base of their own.
    Local,
}

/// Cosines and sines `[positions, dim / 2]` in f32, for as many positions as were asked for so far.
#[derive(Debug)]
struct Table {
    frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by: `YaRN`'s attention factor.
    amplitude: f64,
    context: u32,
    device: Device,
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// The tables of an architecture; they hold no positions yet.
    pub(crate) fn new(architecture: &Architecture, device: Device) -> Result<Self, TorchError> {
        let Architecture { rope_theta, rope_scaling, local_rope_theta, .. } = *architecture;
        let table = |theta, scaling| Table::new(architecture, theta, scaling, device);
        // Those with a base of their own are never stretched.
        let local = local_rope_theta.map(|theta| table(theta, None)).transpose()?;
        Ok(Self { whole: table(rope_theta, rope_scaling)?, local })
    }

    /// Makes sure that positions below `positions` are in the tables.
    pub(crate) fn reserve(&mut self, positions: u32) -> Result<(), TorchError> {
        self.whole.reserve(positions)?;
        self.local.as_mut().map_or(Ok(()), |local| local.reserve(positions))
    }

    /// Cosines and sines.
    pub(crate) fn tables(&self, base: RotaryBase) -> (&Tensor, &Tensor) {
        let table = match (base, &self.local) {
            (RotaryBase::Local, Some(local)) => local,
            _ => &self.whole,
        };
        (&table.cos, &table.sin)
    }
}

impl Table {
    fn new(
        architecture: &Architecture,
        theta: f64,
        scaling: Option<RopeScaling>,
        device: Device,
    ) -> Result<Self, TorchError> {
        let frequencies = frequencies(architecture.head_dim, theta, scaling);
        let empty = || Tensor::f_empty([0, frequencies.len() as i64], (tch::Kind::Float, device));
        let (cos, sin) = (empty()?, empty()?);
        let amplitude = match scaling {
            Some(RopeScaling::Yarn { attention_factor, .. }) => attention_factor,
            _ => 1.0,
        };
        Ok(Self { frequencies, amplitude, context: architecture.context, device, cos, sin })
    }

    fn reserve(&mut self, positions: u32) -> Result<(), TorchError> {
        let held = self.cos.size()[0];
        if i64::from(positions) <= held {
            return Ok(());
        }
        // A power of two: a table is made anew about ten times at most.
        let rows = positions
            .max(512)
            .checked_next_power_of_two()
            .unwrap_or(positions)
            .min(self.context.max(positions));
        // As the reference does it: the angle is an f32 product, its cosine exact but for rounding.
        let angles = (0..rows).flat_map(|p| self.frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|a| ((a.cos() * self.amplitude) as f32, (a.sin() * self.amplitude) as f32)).unzip();
        let shape = [i64::from(rows), self.frequencies.len() as i64];
        let table = |values: &[f32]| Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(self.device);
        (self.cos, self.sin) = (table(&cos)?, table(&sin)?);
        Ok(())
    }
}

/// Turns per position of each pair of elements, in radians.
fn frequencies(dim: u32, theta: f64, scaling: Option<RopeScaling>) -> Vec<f32> {
    (0..dim / 2)
        .map(|index| {
            let frequency = theta.powf(-2.0 * f64::from(index) / f64::from(dim));
            stretched(Turning { index, dim, theta, frequency }, scaling) as f32
        })
        .collect()
}

/// One pair of elements and its angle per position before stretching.
#[derive(Debug, Clone, Copy)]
struct Turning {
    index: u32,
    dim: u32,
    theta: f64,
    frequency: f64,
}

/// `_compute_llama3_parameters`, `_compute_linear_scaling_rope_parameters` and `_compute_yarn_parameters` of
/// transformers' `modeling_rope_utils.py`.
fn stretched(turning: Turning, scaling: Option<RopeScaling>) -> f64 {
    let frequency = turning.frequency;
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / factor,
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context }) => {
            let turns = f64::from(original_context) * frequency / TAU;
            if turns < low_freq_factor {
                frequency / factor
            } else if turns > high_freq_factor {
                frequency
            } else {
                let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
        Some(RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_context, .. }) => {
            // The index at which a pair makes so many turns within the original context.
            let border = |turns: f64| {
                let context = f64::from(original_context);
                f64::from(turning.dim) * (context / (turns * TAU)).ln() / (2.0 * turning.theta.ln())
            };
            let (mut low, mut high) = (border(beta_fast), border(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, high) = (low.max(0.0), high.min(f64::from(turning.dim) - 1.0));
            let width = if low == high { 0.001 } else { high - low };
            let divided = ((f64::from(turning.index) - low) / width).clamp(0.0, 1.0);
            frequency / factor * divided + frequency * (1.0 - divided)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_frequencies_and_stretches_low_ones() {
        let scaling = Some(RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192,
        });
        // 4 turns and 1 turn in the original context are the borders.
        let turns = |turns: f64| turns * TAU / 8192.0;
        let stretched =
            |frequency| stretched(Turning { index: 0, dim: 64, theta: 500_000.0, frequency }, scaling);
        assert_eq!(stretched(turns(4.1)), turns(4.1));
        assert_eq!(stretched(turns(0.9)), turns(0.9) / 32.0);
        let between = stretched(turns(2.5)) / turns(2.5);
        assert!((between - (0.5 / 32.0 + 0.5)).abs() < 1e-12, "{between}");
    }
}
