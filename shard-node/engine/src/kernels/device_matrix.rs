//! Matrices of the int8 and int4 classes on devices other than the CPU: integers as small as on the CPU, in layouts
//! that the library's operators multiply or widen.
//!
//! Made of [`Panels`], so that both devices hold the same numbers. int8 is widened to the activations' type tile by
//! tile and its products scaled. int4 lies in the library's own 4-bit tiles where the device and the sizes allow it,
//! which multiply without widening; else as nibbles that are widened tile by tile.

use tch::{Device, Kind, Tensor};

use super::panels::{Integers, Panels};
use crate::ffi::{GROUP, TorchError};

/// A quantised matrix `[out, width]` on a device.
#[derive(Debug)]
pub(crate) struct DeviceMatrix {
    weights: Weights,
    out: i64,
    width: i64,
}

#[derive(Debug)]
enum Weights {
    /// int8 `[out, width]` and a f32 scale for each row `[out]`.
    Eight { values: Tensor, scales: Tensor },
    /// int4 in the library's tiles; bf16 `[groups, out, 2]` scales and what 8 stands for.
    Tiles { tiles: Tensor, scales: Tensor },
    /// `[out, groups, 16]` nibbles: low ones are values 0 to 15 of a group; f16 `[out, groups, 1]` scales and minima.
    Nibbles { packed: Tensor, scales: Tensor, minima: Tensor },
}

impl DeviceMatrix {
    /// The same numbers on `device`. `fine`: products are wanted in more than bf16's 8 bits, as logits are, which the
    /// library's tiles do not give.
    pub(crate) fn new(panels: &Panels, device: Device, fine: bool) -> Result<Self, TorchError> {
        let (out, width) = (panels.out() as i64, panels.width() as i64);
        let weights = match panels.integers()? {
            Integers::Eight { values, scales } => {
                Weights::Eight { values: values.f_to_device(device)?, scales: scales.f_to_device(device)? }
            }
            Integers::Four { nibbles, scales, minima } => {
                let four = Four { nibbles, scales, minima };
                // The CPU has other operators for its own tiles.
                let tiles = if fine || device == Device::Cpu || width % GROUP as i64 != 0 {
                    None
                } else {
                    let tiles = four.tiles(device);
                    tiles.inspect_err(|error| tracing::debug!(out, width, %error, "int4 is widened")).ok()
                };
                tiles.map_or_else(|| four.packed(device), Ok)?
            }
        };
        Ok(Self { weights, out, width })
    }

    /// `x · Wᵀ` for `x [rows, width]`, of the type of `x`.
    pub(crate) fn multiply(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        if let Weights::Tiles { tiles, scales } = &self.weights {
            return multiply_tiles(x, tiles, scales);
        }
        Ok(self.multiply_f32(x)?.f_to_kind(x.kind())?)
    }

    /// The same in f32.
    pub(crate) fn multiply_f32(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        if let Weights::Tiles { tiles, scales } = &self.weights {
            return Ok(multiply_tiles(x, tiles, scales)?.f_to_kind(Kind::Float)?);
        }
        let at_once = (TILE_VALUES / self.width.max(1)).max(1);
        let mut parts = Vec::new();
        let mut first = 0;
        while first < self.out {
            let rows = at_once.min(self.out - first);
            parts.push(self.part(x, first, rows)?);
            first += rows;
        }
        match parts.len() {
            1 => parts.pop().ok_or_else(|| TorchError("a matrix without rows".into())),
            _ => Ok(Tensor::f_cat(&parts, 1)?),
        }
    }

    /// Bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        let all = match &self.weights {
            Weights::Eight { values, scales } => vec![values, scales],
            Weights::Tiles { tiles, scales } => vec![tiles, scales],
            Weights::Nibbles { packed, scales, minima } => vec![packed, scales, minima],
        };
        all.iter().map(|tensor| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum()
    }

    /// The products with `rows` rows of the matrix from `first` on, in f32.
    fn part(&self, x: &Tensor, first: i64, rows: i64) -> Result<Tensor, TorchError> {
        match &self.weights {
            Weights::Eight { values, scales } => {
                let wide = values.f_narrow(0, first, rows)?.f_to_kind(x.kind())?;
                Ok(product(x, &wide)?.f_mul_(&scales.f_narrow(0, first, rows)?)?)
            }
            Weights::Nibbles { packed, scales, minima } => {
                let part = |tensor: &Tensor| tensor.f_narrow(0, first, rows);
                let packed = part(packed)?;
                let (low, high) = (packed.f_bitwise_and(15)?, packed.f_bitwise_right_shift_tensor_scalar(4)?);
                // In f16 a nibble and its scale are exact, and the value is rounded once before it becomes bf16.
                let kind = if x.kind() == Kind::BFloat16 { Kind::Half } else { x.kind() };
                let nibbles = Tensor::f_cat(&[low, high], 2)?.f_to_kind(kind)?;
                let (scale, least) = (part(scales)?.f_to_kind(kind)?, part(minima)?.f_to_kind(kind)?);
                let wide = least.f_addcmul(&nibbles, &scale)?.f_view([rows, -1])?.f_to_kind(x.kind())?;
                product(x, &wide.f_narrow(1, 0, self.width)?)
            }
            Weights::Tiles { .. } => Err(TorchError("tiles are not widened".into())),
        }
    }
}

fn multiply_tiles(x: &Tensor, tiles: &Tensor, scales: &Tensor) -> Result<Tensor, TorchError> {
    let rows = x.f_to_kind(Kind::BFloat16)?.f_contiguous()?;
    let y = rows.f_internal_weight_int4pack_mm(tiles, GROUP as i64, scales)?;
    Ok(y.f_to_kind(x.kind())?)
}

/// `x · wideᵀ` in f32; the library has a product of bf16 rows with an f32 result for CUDA only.
fn product(x: &Tensor, wide: &Tensor) -> Result<Tensor, TorchError> {
    if x.device().is_cuda() && x.kind() != Kind::Float {
        return Ok(x.f_mm_dtype(&wide.f_tr()?, Kind::Float)?);
    }
    Ok(x.f_to_kind(Kind::Float)?.f_linear(&wide.f_to_kind(Kind::Float)?, None::<&Tensor>)?)
}

/// What panels of 4 bits hold, on the CPU: 0 to 15 in bytes `[out, groups, 32]`, f16 `[out, groups, 1]`.
///
/// Packed before it is moved, so that the device never holds more than it keeps.
#[derive(Debug)]
struct Four {
    nibbles: Tensor,
    scales: Tensor,
    minima: Tensor,
}

impl Four {
    /// The library's tiles: its values are `(nibble - 8) * scale + zero`, both in bf16
    /// (`_convert_weight_to_int4pack` and `_weight_int4pack_mm` in `ATen`'s `native/cuda/int4mm.cu`). An error where the
    /// device is too old or the sizes do not fit.
    fn tiles(&self, device: Device) -> Result<Weights, TorchError> {
        let [out, groups, _] = self.nibbles.size()[..] else {
            return Err(TorchError("nibbles without groups".into()));
        };
        let inner = [8, 4, 2].into_iter().find(|inner| groups * GROUP as i64 % (16 * inner) == 0);
        let inner = inner.ok_or_else(|| TorchError("no tiles of this width".into()))?;
        let pairs = self.nibbles.f_reshape([out, -1, 2])?;
        let (even, odd) = (pairs.f_select(2, 0)?, pairs.f_select(2, 1)?);
        let pairs = even.f_mul_scalar(16)?.f_add(&odd)?.f_contiguous()?.f_to_device(device)?;
        let tiles = pairs.f_internal_convert_weight_to_int4pack(inner)?;
        let scale = self.scales.f_squeeze_dim(2)?.f_to_kind(Kind::Float)?;
        let minimum = self.minima.f_squeeze_dim(2)?.f_to_kind(Kind::Float)?;
        let zero = minimum.f_add(&scale.f_mul_scalar(8.0)?)?;
        let both = Tensor::f_stack(&[scale, zero], 2)?.f_to_kind(Kind::BFloat16)?;
        let scales = both.f_transpose(0, 1)?.f_contiguous()?.f_to_device(device)?;
        Ok(Weights::Tiles { tiles, scales })
    }

    /// Two values to a byte.
    fn packed(&self, device: Device) -> Result<Weights, TorchError> {
        let half = GROUP as i64 / 2;
        let (low, high) = (self.nibbles.f_narrow(2, 0, half)?, self.nibbles.f_narrow(2, half, half)?);
        let packed = high.f_mul_scalar(16)?.f_add(&low)?.f_contiguous()?.f_to_device(device)?;
        let (scales, minima) = (self.scales.f_to_device(device)?, self.minima.f_to_device(device)?);
        Ok(Weights::Nibbles { packed, scales, minima })
    }
}

/// Values widened at a time: 64 MiB of bf16.
const TILE_VALUES: i64 = 1 << 25;
