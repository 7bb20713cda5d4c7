//! Norm and gated activation, row by row.
//!
//! The CPU takes the shim's kernels, in which a row's bits do not depend on the rows around it;
//! other devices take the library's operators.

use tch::{Device, Kind, Tensor};

use crate::ffi::{self, TorchError};

/// RMS norm: `x / sqrt(mean(x^2) + eps) * weight`; `x [rows, n]`, `weight` f32 `[n]`
/// (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TorchError> {
    if x.device() == Device::Cpu {
        ffi::rms_norm(x, weight, eps as f32)
    } else {
        rms_norm_any(x, weight, eps)
    }
}

/// `silu(gate) * up` of `gate_up [rows, gate then up]` (Shazeer 2020, <https://arxiv.org/abs/2002.05202>).
pub(crate) fn silu_mul(gate_up: &Tensor) -> Result<Tensor, TorchError> {
    if gate_up.device() == Device::Cpu { ffi::silu_mul(gate_up) } else { silu_mul_any(gate_up) }
}

fn rms_norm_any(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TorchError> {
    let wide = x.f_to_kind(Kind::Float)?;
    Ok(wide.f_rms_norm(weight.size(), Some(weight), eps)?.f_to_kind(x.kind())?)
}

fn silu_mul_any(gate_up: &Tensor) -> Result<Tensor, TorchError> {
    let width = gate_up.size2()?.1 / 2;
    Ok(gate_up.f_narrow(1, 0, width)?.f_silu()?.f_mul(&gate_up.f_narrow(1, width, width)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Float) - b.to_kind(Kind::Float)).abs().max().double_value(&[])
    }

    #[test]
    fn row_kernels_agree_with_the_library() {
        for kind in [Kind::Float, Kind::BFloat16] {
            // One unit in the last place of values around 8 in bf16.
            let bound = if kind == Kind::Float { 2e-5 } else { 0.07 };
            for width in [576, 64, 50] {
                let x = Tensor::randn([7, width], (kind, Device::Cpu)) * 3.0;
                let weight = Tensor::randn([width], (Kind::Float, Device::Cpu));
                let ours = rms_norm(&x, &weight, 1e-5).unwrap();
                let theirs = rms_norm_any(&x, &weight, 1e-5).unwrap();
                assert!(largest_difference(&ours, &theirs) < bound, "norm {kind:?} {width}");
                let ours = silu_mul(&x).unwrap();
                let theirs = silu_mul_any(&x).unwrap();
                assert_eq!(ours.size(), theirs.size());
                // Two roundings against one.
                assert!(largest_difference(&ours, &theirs) < 4.0 * bound, "silu {kind:?} {width}");
            }
        }
    }

    #[test]
    fn silu_is_right_at_the_ends_of_the_range() {
        let x = Tensor::from_slice(&[-1000f32, -88.0, -20.0, 0.0, 20.0, 100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let y = Vec::<f32>::try_from(silu_mul(&x.view([1, 12])).unwrap().view([6])).unwrap();
        assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30, "{y:?}");
        assert!((y[2] + 20.0 * (-20f32).exp()).abs() < 1e-12, "{y:?}");
        assert_eq!(&y[3..], &[0.0, 20.0, 100.0]);
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for width in [576, 72, 50] {
                let x = Tensor::randn([9, width], (kind, Device::Cpu));
                let weight = Tensor::randn([width], (Kind::Float, Device::Cpu));
                let (norm, gated) = (rms_norm(&x, &weight, 1e-5).unwrap(), silu_mul(&x).unwrap());
                for r in 0..9 {
                    let row = x.narrow(0, r, 1);
                    assert_eq!(rms_norm(&row, &weight, 1e-5).unwrap(), norm.narrow(0, r, 1));
                    assert_eq!(silu_mul(&row).unwrap(), gated.narrow(0, r, 1));
                }
            }
        }
    }
}
