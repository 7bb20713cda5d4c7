//! A weight matrix in the layout its numerics class multiplies fastest (or most exactly).
//!
//! Owns how `x · Wᵀ` is computed, nothing of where `W` comes from.

use tch::{Device, Kind, Tensor};

use crate::error::EngineError;
use crate::ffi::{self, PanelLevel, TorchError};
use crate::kernels::device_matrix::DeviceMatrix;
use crate::kernels::pairs::Pairs;
use crate::kernels::panels::{Bits, Panels};
use crate::quantise::DenseRows;

/// Rows per multiplication in the exact class.
///
/// An f32 product's bits depend on the number of rows the library is given (it picks kernels by
/// it), but not on a row's index or its neighbours: shown by the test below for the sizes in use.
/// So every product of the exact class has exactly this many rows, zero-padded.
pub(crate) const EXACT_ROWS: i64 = 16;

/// One weight matrix `[out, in]`, ready to multiply rows `[rows, in]`.
#[derive(Debug)]
pub(crate) enum Linear {
    /// f32, in blocks of exactly [`EXACT_ROWS`] rows: the exact class.
    Exact(Tensor),
    /// bf16 in oneDNN's blocked layout, for CPUs with its bf16 kernels that do not multiply pairs.
    Packed(Tensor),
    /// bf16 in the shim's layout of pairs, for CPUs that multiply those: as f32, by pairs or by AMX's tiles.
    Pairs(Pairs),
    /// The activations' own type, through the library's plain `linear`: GPUs.
    Plain(Tensor),
    /// bf16 that becomes f32 around the products of many rows: CPUs without AVX2.
    Widened(Tensor),
    /// 8 or 4 bits, multiplied by the shim: the int8 and int4 classes on the CPU.
    Panels(Panels, PanelLevel),
    /// The same on other devices.
    Device(DeviceMatrix),
}

/// Which [`Linear`] a stage makes of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinearKind {
    /// f32 in blocks of 16 rows.
    Exact,
    /// bf16 packed by oneDNN.
    Packed,
    /// bf16 packed for the shim's own product.
    Pairs,
    /// bf16 without packing.
    Plain,
    /// bf16, multiplied as f32 when there are many rows.
    Widened,
    /// Quantised, on the CPU.
    Panels(Bits, PanelLevel),
    /// Quantised, on other devices.
    Device(Bits),
}

impl LinearKind {
    /// The type the weights are read as.
    pub(crate) fn weight_kind(self) -> Kind {
        match self {
            Self::Exact => Kind::Float,
            _ => Kind::BFloat16,
        }
    }

    /// The type of the activations between layers.
    pub(crate) fn activation_kind(self) -> Kind {
        match self {
            Self::Exact => Kind::Float,
            _ => Kind::BFloat16,
        }
    }

    /// Bits of a quantised weight.
    pub(crate) fn bits(self) -> Option<Bits> {
        match self {
            Self::Panels(bits, _) | Self::Device(bits) => Some(bits),
            _ => None,
        }
    }
}

impl Linear {
    /// Takes `weight [out, in]` of type [`LinearKind::weight_kind`].
    pub(crate) fn new(weight: Tensor, kind: LinearKind) -> Result<Self, EngineError> {
        Ok(match kind {
            LinearKind::Exact => Self::Exact(weight),
            LinearKind::Pairs if Pairs::take(weight.size2()?.1 as usize) => Self::Pairs(Pairs::of(&weight)?),
            // The library's layout takes what pairs do not.
            LinearKind::Packed | LinearKind::Pairs => Self::Packed(ffi::linear_pack(&weight)?),
            LinearKind::Plain => Self::Plain(weight),
            LinearKind::Widened => Self::Widened(weight),
            LinearKind::Panels(bits, _) | LinearKind::Device(bits) => {
                let device = weight.device();
                let dense = weight.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
                let values =
                    ffi::contiguous_f32(&dense).ok_or_else(|| TorchError("no dense weight".into()))?;
                let rows = DenseRows { values, columns: dense.size2()?.1 as usize };
                Self::of_panels(Panels::pack(&rows, bits, 1)?, kind, device)?
            }
        })
    }

    /// Takes a quantised matrix, for a kind that has [bits](LinearKind::bits).
    pub(crate) fn of_panels(panels: Panels, kind: LinearKind, device: Device) -> Result<Self, TorchError> {
        match kind {
            LinearKind::Panels(_, level) if device == Device::Cpu => Ok(Self::Panels(panels, level)),
            _ => Ok(Self::Device(DeviceMatrix::new(&panels, device, false)?)),
        }
    }

    /// The same for logits, whose products are wanted in f32.
    pub(crate) fn head_of_panels(panels: &Panels, device: Device) -> Result<Self, TorchError> {
        Ok(Self::Device(DeviceMatrix::new(panels, device, true)?))
    }

    /// `x [rows, in]` to `[rows, out]`, of the type of `x`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        Ok(match self {
            Self::Exact(weight) => blocks(x, weight)?,
            Self::Packed(weight) => ffi::linear_packed(x, weight)?,
            Self::Pairs(pairs) => pairs.multiply(x, None, false)?,
            Self::Plain(weight) => x.f_linear(weight, None::<&Tensor>)?,
            Self::Widened(weight) => widened(x, weight)?.f_to_kind(x.kind())?,
            Self::Panels(panels, level) => panels.multiply(&x.f_contiguous()?, None, x.kind(), *level)?,
            Self::Device(matrix) => matrix.multiply(x)?,
        })
    }

    /// `residual + x · Wᵀ`, of the type of `residual`.
    pub(crate) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, TorchError> {
        Ok(match self {
            Self::Exact(weight) => blocks(x, weight)?.f_add_(residual)?,
            Self::Packed(weight) => ffi::linear_packed_add(x, weight, residual)?,
            Self::Pairs(pairs) => pairs.multiply(x, Some(residual), false)?,
            Self::Plain(weight) => x.f_linear(weight, None::<&Tensor>)?.f_add_(residual)?,
            Self::Widened(weight) => widened(x, weight)?.f_add_(residual)?.f_to_kind(residual.kind())?,
            Self::Panels(panels, level) => {
                panels.multiply(&x.f_contiguous()?, Some(residual), residual.kind(), *level)?
            }
            Self::Device(matrix) => matrix.multiply(x)?.f_add_(residual)?,
        })
    }

    /// `x · Wᵀ` in f32: the head's logits.
    pub(crate) fn forward_f32(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        Ok(match self {
            Self::Widened(weight) => widened(x, weight)?.f_to_kind(Kind::Float)?,
            Self::Pairs(pairs) => pairs.multiply(x, None, true)?,
            Self::Panels(panels, level) => panels.multiply_fine(&x.f_contiguous()?, *level)?,
            Self::Device(matrix) => matrix.multiply_f32(x)?,
            // Rounded to bf16's 8 bits, the best candidates would often tie. The library has a product of bf16
            // rows with an f32 result for CUDA only.
            Self::Plain(weight) if x.device().is_cuda() => x.f_mm_dtype(&weight.f_tr()?, Kind::Float)?,
            _ => self.forward(x)?.f_to_kind(Kind::Float)?,
        })
    }

    /// Bytes the matrix holds.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Exact(weight) | Self::Packed(weight) | Self::Plain(weight) | Self::Widened(weight) => {
                weight.size().iter().product::<i64>() as usize * weight.kind().elt_size_in_bytes()
            }
            Self::Pairs(pairs) => pairs.bytes(),
            Self::Panels(panels, _) => panels.bytes(),
            Self::Device(matrix) => matrix.bytes(),
        }
    }
}

/// Up to here the library's bf16 product is the faster one on AVX2, beyond it an f32 product, even with
/// the weight widened for each. 3072x576, one thread, bf16 against f32 with the weight already wide:
/// 1 row 0.22 and 0.72 ms, 4 rows 0.75 and 1.08, 16 rows 3.7 and 1.3, 256 rows 53 and 11; widening adds 1 to 2.
const FEW_ROWS: i64 = 12;

fn widened(x: &Tensor, weight: &Tensor) -> Result<Tensor, TorchError> {
    if x.size2()?.0 <= FEW_ROWS {
        return Ok(x.f_linear(weight, None::<&Tensor>)?);
    }
    Ok(x.f_to_kind(Kind::Float)?.f_linear(&weight.f_to_kind(Kind::Float)?, None::<&Tensor>)?)
}

fn blocks(x: &Tensor, weight: &Tensor) -> Result<Tensor, TorchError> {
    let (rows, width) = x.size2()?;
    let out = weight.size()[0];
    if rows == EXACT_ROWS {
        return Ok(x.f_linear(weight, None::<&Tensor>)?);
    }
    let result = Tensor::f_empty([rows, out], (x.kind(), x.device()))?;
    let mut start = 0;
    while start < rows {
        let taken = EXACT_ROWS.min(rows - start);
        let part = x.f_narrow(0, start, taken)?;
        let block = if taken == EXACT_ROWS {
            part
        } else {
            let padded = Tensor::f_zeros([EXACT_ROWS, width], (x.kind(), x.device()))?;
            padded.f_narrow(0, 0, taken)?.f_copy_(&part)?;
            padded
        };
        let product = block.f_linear(weight, None::<&Tensor>)?.f_narrow(0, 0, taken)?;
        result.f_narrow(0, start, taken)?.f_copy_(&product)?;
        start += taken;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (in, out) of the demo model, of Llama-3.2-1B and of the models the tests make.
    const SIZES: [(i64, i64); 9] = [
        (576, 960),
        (576, 576),
        (576, 3072),
        (1536, 576),
        (2048, 512),
        (64, 128),
        (128, 64),
        (48, 80),
        (176, 320),
    ];

    #[test]
    fn exact_rows_have_the_same_bits_at_any_index_and_with_any_neighbours() {
        crate::kernels::seeded();
        tch::set_num_threads(1);
        let _mode = ffi::InferenceMode::enter().unwrap();
        for (width, out) in SIZES {
            let linear =
                Linear::new(Tensor::randn([out, width], (Kind::Float, Device::Cpu)), LinearKind::Exact)
                    .unwrap();
            let x = Tensor::randn([37, width], (Kind::Float, Device::Cpu));
            let alone: Vec<Tensor> = (0..37).map(|r| linear.forward(&x.narrow(0, r, 1)).unwrap()).collect();
            for rows in [2, 3, 15, 16, 17, 32, 37] {
                for start in 0..=(37 - rows) {
                    let y = linear.forward(&x.narrow(0, start, rows)).unwrap();
                    for r in 0..rows {
                        assert_eq!(
                            y.narrow(0, r, 1),
                            alone[(start + r) as usize],
                            "{width}x{out}: row {r} of {rows} from {start}"
                        );
                    }
                }
            }
        }
    }

    /// By AMX's tiles and by instructions for pairs, where this machine has them, and with AVX2 only.
    #[test]
    fn pairs_give_a_row_the_same_bits_in_any_company() {
        crate::kernels::seeded();
        if ffi::pairs_level().is_some() {
            pairs_in_company();
            ffi::without_tiles(pairs_in_company);
            ffi::at_cpu_level(3, pairs_in_company);
        }
    }

    fn pairs_in_company() {
        let _mode = ffi::InferenceMode::enter().unwrap();
        // Widths around one part of the inputs, outputs that fill no block or no group of blocks.
        for (width, out) in [(576, 960), (1024, 16), (1026, 72), (2050, 50), (30, 33)] {
            let weight = Tensor::randn([out, width], (Kind::BFloat16, Device::Cpu));
            let linear = Linear::new(weight, LinearKind::Pairs).unwrap();
            let x = Tensor::randn([200, width], (Kind::BFloat16, Device::Cpu));
            let residual = Tensor::randn([200, out], (Kind::BFloat16, Device::Cpu));
            ffi::team(1).unwrap();
            let alone: Vec<[Tensor; 2]> = (0..200)
                .map(|r| {
                    let x = x.narrow(0, r, 1);
                    [
                        linear.forward_f32(&x).unwrap(),
                        linear.forward_add(&x, &residual.narrow(0, r, 1)).unwrap(),
                    ]
                })
                .collect();
            ffi::team(3).unwrap();
            for (start, rows) in [
                (0, 2),
                (3, 5),
                (1, 6),
                (4, 7),
                (0, 13),
                (2, 16),
                (9, 17),
                (1, 33),
                (5, 64),
                (0, 193),
                (0, 200),
            ] {
                let part = x.narrow(0, start, rows);
                let wide = linear.forward_f32(&part).unwrap();
                let added = linear.forward_add(&part, &residual.narrow(0, start, rows)).unwrap();
                for r in 0..rows {
                    let [one_wide, one_added] = &alone[(start + r) as usize];
                    assert_eq!(wide.narrow(0, r, 1), *one_wide, "{width}x{out}: {r} of {rows}");
                    assert_eq!(added.narrow(0, r, 1), *one_added, "{width}x{out}: {r} of {rows}");
                }
            }
        }
    }

    #[test]
    fn no_rows_have_a_product_of_no_rows() {
        let _mode = ffi::InferenceMode::enter().unwrap();
        let kinds = [LinearKind::Exact, LinearKind::Pairs];
        for kind in
            kinds.into_iter().filter(|&kind| kind != LinearKind::Pairs || ffi::pairs_level().is_some())
        {
            let linear =
                Linear::new(Tensor::ones([33, 30], (kind.weight_kind(), Device::Cpu)), kind).unwrap();
            let none = Tensor::ones([0, 30], (kind.activation_kind(), Device::Cpu));
            let product = || linear.forward_f32(&none).unwrap().size();
            assert_eq!(product(), [0, 33], "{kind:?}");
            assert_eq!(ffi::without_tiles(product), [0, 33], "{kind:?}");
            assert_eq!(ffi::at_cpu_level(3, product), [0, 33], "{kind:?}");
        }
    }

    #[test]
    fn a_team_does_its_work_however_it_rests() {
        crate::kernels::seeded();
        if ffi::pairs_level().is_none() {
            return;
        }
        let _mode = ffi::InferenceMode::enter().unwrap();
        let linear =
            Linear::new(Tensor::randn([256, 64], (Kind::BFloat16, Device::Cpu)), LinearKind::Pairs).unwrap();
        let x = Tensor::randn([1, 64], (Kind::BFloat16, Device::Cpu));
        let expected = linear.forward(&x).unwrap();
        for round in 0..20_000 {
            // Sizes change rarely; every few rounds the others are told to sleep, to wake, or neither.
            if round % 1000 == 0 {
                ffi::team(1 + round / 1000 % 4).unwrap();
            }
            match round % 7 {
                3 => ffi::team_rest(),
                5 => ffi::team_rouse(),
                _ => {}
            }
            assert_eq!(linear.forward(&x).unwrap(), expected, "round {round}");
        }
        ffi::team(1).unwrap();
    }

    #[test]
    fn packed_and_widened_products_agree_with_f32() {
        crate::kernels::seeded();
        let _mode = ffi::InferenceMode::enter().unwrap();
        let weight = Tensor::randn([256, 512], (Kind::BFloat16, Device::Cpu));
        for rows in [1, 5, 16, 23, 40, 600] {
            let x = Tensor::randn([rows, 512], (Kind::BFloat16, Device::Cpu));
            let residual = Tensor::randn([rows, 256], (Kind::BFloat16, Device::Cpu));
            compare(&x, &weight, &residual);
            ffi::without_tiles(|| compare(&x, &weight, &residual));
            ffi::at_cpu_level(3, || compare(&x, &weight, &residual));
        }
    }

    fn compare(x: &Tensor, weight: &Tensor, residual: &Tensor) {
        let exact = x.to_kind(Kind::Float).linear(&weight.to_kind(Kind::Float), None::<&Tensor>);
        let added = &exact + residual.to_kind(Kind::Float);
        for kind in [LinearKind::Packed, LinearKind::Pairs, LinearKind::Plain, LinearKind::Widened] {
            if kind == LinearKind::Pairs && ffi::pairs_level().is_none() {
                continue;
            }
            if kind == LinearKind::Packed && !ffi::onednn_has_bf16().unwrap() {
                continue;
            }
            let linear = Linear::new(weight.to_kind(kind.weight_kind()), kind).unwrap();
            let error =
                |y: Tensor, truth: &Tensor| (y.to_kind(Kind::Float) - truth).abs().max().double_value(&[]);
            let plain = error(linear.forward(x).unwrap(), &exact);
            let with_residual = error(linear.forward_add(x, residual).unwrap(), &added);
            let largest = exact.abs().max().double_value(&[]);
            // Half a unit in the last of bf16's 8 bits, of the largest value, and as much for a plain sum.
            assert!(plain < largest / 256.0, "{kind:?}: {plain} of {largest}");
            assert!(with_residual < largest / 128.0, "{kind:?}: {with_residual} of {largest}");
        }
    }
}
