//! Single products of a numerics class, for programs that measure them. Reads no clock.

use proto::tensor::NumericsClass;
use shard_node::engine::DeviceChoice;
use tch::{Kind, Tensor};

use crate::device;
use crate::error::EngineError;
use crate::ffi::{self, InferenceMode, TorchError};
use crate::kernels::linear::Linear;
use crate::numerics::Numerics;

/// Random matrices of one size and rows to multiply by them.
#[derive(Debug)]
pub struct Products {
    linears: Vec<Linear>,
    x: Tensor,
    _mode: InferenceMode,
}

impl Products {
    /// `copies` matrices `[out, width]` as a stage of that class on the CPU holds them, and `rows` rows.
    /// The calling thread computes from then on.
    pub fn new(
        class: NumericsClass,
        [out, width]: [i64; 2],
        copies: usize,
        rows: i64,
        threads: usize,
    ) -> Result<Self, EngineError> {
        let device = device::open(DeviceChoice::Cpu)?;
        let kind = Numerics::choose(class, device)?.linear;
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        ffi::team(threads)?;
        let mode = InferenceMode::enter()?;
        tch::manual_seed(1);
        let matrix = || {
            let weight = Tensor::f_randn([out, width], (Kind::Float, device))?;
            Linear::new(weight.f_to_kind(kind.weight_kind())?, kind)
        };
        let linears = (0..copies.max(1)).map(|_| matrix()).collect::<Result<_, _>>()?;
        let x = Tensor::f_randn([rows, width], (kind.activation_kind(), device))?;
        Ok(Self { linears, x, _mode: mode })
    }

    /// One product, with the matrix of that number.
    pub fn multiply(&self, index: usize) -> Result<(), TorchError> {
        self.linears[index % self.linears.len()].forward(&self.x).map(drop)
    }

    /// Bytes of one matrix.
    pub fn bytes(&self) -> usize {
        self.linears[0].bytes()
    }
}
