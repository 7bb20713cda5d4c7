//! What of a GPU's memory a stage may take: pure arithmetic over what was free when it was asked.
//!
//! 15 % of what is free at the start stays free: for the library's workspaces, for the gaps between blocks of
//! its allocator, and for whoever draws a desktop on the same GPU. Weights come first, then what the largest
//! step needs, and the rest is KV.

use std::fmt;

use proto::LayerSpan;
use proto::manifest::Architecture;
use proto::tensor::{NumericsClass, WeightFormat};
use shard_node_weights::span_tensors;

/// Why a shard does not fit a device. Says by how much and what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The weights alone are too many.
    #[error(
        "layers {span} in {class} take {weights} on {device}, of whose {free} free {usable} may be used ({HEADROOM_PERCENT} % stay free): \
         serve fewer layers (about {fitting} of these {} would fit), choose another device, or end other programs on it",
        span.len()
    )]
    Weights {
        /// The device's name.
        device: String,
        /// The layers.
        span: LayerSpan,
        /// The class.
        class: NumericsClass,
        /// Bytes of the span.
        weights: Bytes,
        /// Bytes free at the start.
        free: Bytes,
        /// Bytes that may be taken.
        usable: Bytes,
        /// How many layers would fit, by their mean size.
        fitting: u64,
    },
    /// The weights fit, but next to nothing is left.
    #[error(
        "with layers {span} loaded, {device} has room for {positions} positions of KV ({left} left), fewer than the {FEWEST_POSITIONS} \
         that a session needs to be of use: serve fewer layers, choose another device, or end other programs on it"
    )]
    Kv {
        /// The device's name.
        device: String,
        /// The layers.
        span: LayerSpan,
        /// Positions that fit.
        positions: u64,
        /// Bytes left for them.
        left: Bytes,
    },
}

/// A shard on a device.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    /// The device's name.
    pub(crate) device: String,
    pub(crate) span: LayerSpan,
    pub(crate) class: NumericsClass,
    /// Bytes free before anything was loaded.
    pub(crate) free: u64,
}

impl Placement {
    /// Bytes that may be taken in all.
    const fn usable(&self) -> u64 {
        self.free - self.headroom()
    }

    /// Bytes that stay free, rounded up.
    const fn headroom(&self) -> u64 {
        (self.free as u128 * HEADROOM_PERCENT as u128).div_ceil(100) as u64
    }

    /// Whether `weights` bytes may be loaded: asked before minutes are spent on loading.
    pub(crate) fn admit_weights(&self, weights: u64) -> Result<(), MemoryError> {
        let usable = self.usable();
        if weights <= usable {
            return Ok(());
        }
        let (free, layers) = (Bytes(self.free), u64::from(self.span.len()));
        let fitting = (u128::from(usable) * u128::from(layers) / u128::from(weights)) as u64;
        Err(MemoryError::Weights {
            device: self.device.clone(),
            span: self.span,
            class: self.class,
            weights: Bytes(weights),
            free,
            usable: Bytes(usable),
            fitting,
        })
    }

    /// Positions of KV that fit into what is `free_now`, with the weights loaded, beside `scratch` bytes for steps.
    pub(crate) fn kv_positions(
        &self,
        free_now: u64,
        scratch: u64,
        per_position: u64,
    ) -> Result<u64, MemoryError> {
        let left = free_now.saturating_sub(self.headroom()).saturating_sub(scratch);
        let positions = left / per_position.max(1);
        if positions >= FEWEST_POSITIONS {
            return Ok(positions);
        }
        let device = self.device.clone();
        Err(MemoryError::Kv { device, span: self.span, positions, left: Bytes(left) })
    }
}

/// Bytes of activations that a step of [`MOST_ROWS`] rows holds at once, in f32 to be safe: residual, norm, fused
/// qkv, attention's output, gate and up, their product, and the logits of every row.
pub(crate) fn step_bytes(architecture: &Architecture, last: bool) -> u64 {
    let a = architecture;
    let [hidden, ffn, vocab] = [a.hidden, a.ffn, a.vocab].map(u64::from);
    let attention = u64::from(2 * a.heads + 2 * a.kv_heads) * u64::from(a.head_dim);
    let row = 4 * hidden + attention + 3 * ffn + if last { vocab } else { 0 };
    4 * MOST_ROWS * row
}

/// Bytes that the weights of a span take on a GPU in a numerics class: all of its tensors, whether one step reads them
/// or not; what `shard_node_weights::footprint` says of a CPU differs at the ends, whose embedding is a table of the
/// activations' type here.
pub fn weight_bytes(architecture: &Architecture, span: LayerSpan, class: NumericsClass) -> u64 {
    let (first, last) = (span.start() == 0, span.end() == architecture.n_layers);
    let table = class.wire_dtype().bytes() as u64;
    let quantised = matches!(class.weights(), WeightFormat::Int8 | WeightFormat::Int4);
    let bytes = |name: &str, shape: &[u64]| {
        let values = shape.iter().product::<u64>();
        match (name, shape) {
            ("model.embed_tokens.weight", _) => {
                let head = last && architecture.tied_head && (quantised || !first);
                let head = if head { head_bytes(class.weights(), shape) } else { 0 };
                head + if first { values * table } else { 0 }
            }
            ("lm_head.weight", _) => head_bytes(class.weights(), shape),
            (_, [_]) => values * size_of::<f32>() as u64,
            _ => matrix_bytes(class.weights(), shape),
        }
    };
    span_tensors(architecture, span).iter().map(|(name, shape)| bytes(name, shape)).sum()
}

/// A matrix of a layer.
fn matrix_bytes(weights: WeightFormat, shape: &[u64]) -> u64 {
    let values = shape.iter().product::<u64>();
    match weights {
        WeightFormat::Int8 => values + values / shape.last().map_or(1, |&width| width.max(1)) * 4,
        // A nibble, and 4 bytes for each 32.
        WeightFormat::Int4 => values * 5 / 8,
        WeightFormat::Bf16 => values * 2,
        WeightFormat::Exact => values * 4,
    }
}

/// Logits keep 8 bits in a class of 4, as `ends` says.
fn head_bytes(weights: WeightFormat, shape: &[u64]) -> u64 {
    matrix_bytes(if weights == WeightFormat::Int4 { WeightFormat::Int8 } else { weights }, shape)
}

/// A number of bytes for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.0 as f64 / f64::from(1 << 20);
        if mebibytes < 1024.0 {
            write!(f, "{mebibytes:.1} MiB")
        } else {
            write!(f, "{:.1} GiB", mebibytes / 1024.0)
        }
    }
}

const HEADROOM_PERCENT: u64 = 15;

/// A short question and its answer.
const FEWEST_POSITIONS: u64 = 256;

/// Rows of the largest step, with room: the scheduler's budget is 128, and never more than its floor above.
const MOST_ROWS: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn placement(free: u64) -> Placement {
        let span = LayerSpan::new(0, 40).unwrap();
        Placement { device: "cuda:0".into(), span, class: NumericsClass::Bf16, free }
    }

    #[test]
    fn fifteen_percent_stay_free_whatever_is_loaded() {
        for free in [0, 1, 99, 100, 101, 24 * GIB, u64::MAX] {
            let placement = placement(free);
            let (usable, headroom) = (placement.usable(), placement.headroom());
            assert_eq!(usable + headroom, free);
            assert!(u128::from(headroom) * 100 >= u128::from(free) * 15, "{free}");
            assert!(placement.admit_weights(usable).is_ok());
            assert!(usable == u64::MAX || placement.admit_weights(usable + 1).is_err());
        }
        // Weights, step and KV together never reach into the headroom.
        let placement = placement(20 * GIB);
        for weights in [0, 5 * GIB, 16 * GIB] {
            for (scratch, per_position) in [(0, 1), (GIB / 8, 40_960), (GIB / 4, 163_840)] {
                let positions = placement.kv_positions(20 * GIB - weights, scratch, per_position).unwrap();
                let taken = weights + scratch + positions * per_position;
                assert!(taken <= placement.usable() && placement.usable() - taken < per_position);
            }
        }
    }

    #[test]
    fn a_shard_too_large_says_how_many_layers_fit() {
        let error = placement(24 * GIB).admit_weights(68 * GIB).unwrap_err().to_string();
        for words in
            ["0..40", "68.0 GiB", "24.0 GiB", "20.4 GiB", "about 11 of these 40", "cuda:0", "fewer layers"]
        {
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn no_room_for_a_session_is_an_error_before_the_first_session() {
        let placement = placement(10 * GIB);
        let error = placement.kv_positions(2 * GIB, GIB / 2, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("room for 0 positions") && error.contains("fewer layers"), "{error}");
        // Others may have taken memory meanwhile: nothing underflows.
        assert!(placement.kv_positions(0, u64::MAX, 1).is_err());
        assert_eq!(placement.kv_positions(10 * GIB, 0, 0).unwrap(), placement.usable());
    }

    #[test]
    fn bytes_print_for_people() {
        assert_eq!(Bytes(0).to_string(), "0.0 MiB");
        assert_eq!(Bytes(1536 << 20).to_string(), "1.5 GiB");
    }
}
