//! How a stage of a numerics class computes on this machine. Decided once, by what the machine
//! can do and never by a stopwatch, so that like machines give like bits.

use proto::tensor::{NumericsClass, WeightFormat};
use tch::Device;

use crate::ffi::{self, PairsLevel, PanelLevel, TorchError};
use crate::kernels::by_shim;
use crate::kernels::linear::LinearKind;
use crate::kernels::pairs::Pairs;
use crate::kernels::panels::Bits;

/// The kernels of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numerics {
    pub(crate) class: NumericsClass,
    pub(crate) linear: LinearKind,
}

impl Numerics {
    /// Chooses and says so in the log.
    pub(crate) fn choose(class: NumericsClass, device: Device) -> Result<Self, TorchError> {
        let linear = linear_kind(class.weights(), device, ffi::onednn_has_bf16()?);
        let tiles = linear == LinearKind::Pairs && ffi::tiles_usable();
        tracing::info!(%class, ?linear, tiles, ?device, vectors = ffi::cpu_capability(), shim_level = ffi::cpu_level(), "numerics");
        Ok(Self { class, linear })
    }

    /// Attention goes one query row at a time.
    pub(crate) fn row_by_row(self) -> bool {
        self.class.weights() == WeightFormat::Exact
    }

    /// The head multiplies by plain bf16 rows and gives f32: where the CPU's own product of bf16 would round the
    /// logits.
    pub(crate) fn head_is_table(self, device: Device) -> bool {
        self.class.weights() == WeightFormat::Bf16 && by_shim(device)
    }

    /// Matrices of that width are packed as pairs, an embedding and its tied head as one.
    pub(crate) fn takes_pairs(self, width: u64) -> bool {
        self.linear == LinearKind::Pairs && Pairs::take(width as usize)
    }

    /// Compute threads: the exact class has one, because sums split over threads round otherwise.
    pub(crate) fn threads(self, asked: Option<usize>) -> usize {
        if self.row_by_row() {
            return 1;
        }
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        asked.unwrap_or_else(cores).max(1)
    }
}

fn linear_kind(weights: WeightFormat, device: Device, onednn_bf16: bool) -> LinearKind {
    match (weights, by_shim(device)) {
        (WeightFormat::Exact, _) => LinearKind::Exact,
        (WeightFormat::Bf16, true) => match ffi::pairs_level() {
            // oneDNN's product of bf16 needs AVX-512 and is faster there than ours with AVX2. As it is told by
            // ONEDNN_MAX_CPU_ISA what it may use, so are we.
            Some(PairsLevel::Bf16) if onednn_bf16 => LinearKind::Pairs,
            _ if onednn_bf16 => LinearKind::Packed,
            Some(_) => LinearKind::Pairs,
            None => LinearKind::Widened,
        },
        (WeightFormat::Bf16, _) => LinearKind::Plain,
        (WeightFormat::Int8, true) => LinearKind::Panels(Bits::Eight, PanelLevel::best()),
        (WeightFormat::Int4, true) => LinearKind::Panels(Bits::Four, PanelLevel::best()),
        (WeightFormat::Int8, _) => LinearKind::Device(Bits::Eight),
        (WeightFormat::Int4, _) => LinearKind::Device(Bits::Four),
    }
}
