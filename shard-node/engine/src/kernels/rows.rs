//! Norms and gated activations, row by row.
//!
//! The CPU takes the shim's kernels, in which a row's bits do not depend on the rows around it;
//! other devices take the library's operators.

use tch::{Kind, Tensor};

use crate::ffi::{self, TorchError};
use crate::kernels::by_shim;

/// RMS norm: `x / sqrt(mean(x^2) + eps) * weight`; `x [rows, n]`, `weight` f32 `[n]`
/// (Zhang & Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TorchError> {
    if by_shim(x.device()) { ffi::rms_norm(x, weight, eps as f32) } else { rms_norm_any(x, weight, eps) }
}

/// [`rms_norm`] added to `residual [rows, n]`.
pub(crate) fn rms_norm_add(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    residual: &Tensor,
) -> Result<Tensor, TorchError> {
    if by_shim(x.device()) {
        ffi::rms_norm_add(x, weight, eps as f32, residual)
    } else {
        Ok(rms_norm_any(x, weight, eps)?.f_add_(residual)?)
    }
}

/// What gates a feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU by its tanh (Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
    GeluTanh,
}

/// `activation(gate) * up` of `gate_up [rows, gate then up]`.
pub(crate) fn gated(gate_up: &Tensor, gate: Gate) -> Result<Tensor, TorchError> {
    if by_shim(gate_up.device()) {
        ffi::gated(gate_up, gate == Gate::GeluTanh)
    } else {
        gated_any(gate_up, gate)
    }
}

fn rms_norm_any(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, TorchError> {
    let wide = x.f_to_kind(Kind::Float)?;
    Ok(wide.f_rms_norm(weight.size(), Some(weight), eps)?.f_to_kind(x.kind())?)
}

fn gated_any(gate_up: &Tensor, gate: Gate) -> Result<Tensor, TorchError> {
    let width = gate_up.size2()?.1 / 2;
    let (x, up) = (gate_up.f_narrow(1, 0, width)?, gate_up.f_narrow(1, width, width)?);
    let activated = match gate {
        Gate::Silu => x.f_silu()?,
        Gate::GeluTanh => x.f_gelu("tanh")?,
    };
    Ok(activated.f_mul(&up)?)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Float) - b.to_kind(Kind::Float)).abs().max().double_value(&[])
    }

    #[test]
    fn row_kernels_agree_with_the_library() {
        crate::kernels::seeded();
        for kind in [Kind::Float, Kind::BFloat16] {
            // One unit in the last place of values around 8 in bf16.
            let bound = if kind == Kind::Float { 2e-5 } else { 0.07 };
            for width in [576, 64, 50] {
                let x = Tensor::randn([7, width], (kind, Device::Cpu)) * 3.0;
                let weight = Tensor::randn([width], (Kind::Float, Device::Cpu));
                let ours = rms_norm(&x, &weight, 1e-5).unwrap();
                let theirs = rms_norm_any(&x, &weight, 1e-5).unwrap();
                assert!(largest_difference(&ours, &theirs) < bound, "norm {kind:?} {width}");
                let ours = rms_norm_add(&x, &weight, 1e-5, &x).unwrap();
                assert!(largest_difference(&ours, &(theirs + &x)) < 2.0 * bound, "sum {kind:?} {width}");
                for gate in [Gate::Silu, Gate::GeluTanh] {
                    let ours = gated(&x, gate).unwrap();
                    let theirs = gated_any(&x, gate).unwrap();
                    assert_eq!(ours.size(), theirs.size());
                    // Two roundings against one.
                    assert!(largest_difference(&ours, &theirs) < 4.0 * bound, "{gate:?} {kind:?} {width}");
                }
            }
        }
    }

    #[test]
    fn gates_are_right_at_the_ends_of_the_range() {
        let x = Tensor::from_slice(&[-1000f32, -88.0, -20.0, 0.0, 20.0, 100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let values = |gate| Vec::<f32>::try_from(gated(&x.view([1, 12]), gate).unwrap().view([6])).unwrap();
        let y = values(Gate::Silu);
        assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30, "{y:?}");
        assert!((y[2] + 20.0 * (-20f32).exp()).abs() < 1e-12, "{y:?}");
        assert_eq!(&y[3..], &[0.0, 20.0, 100.0]);
        let y = values(Gate::GeluTanh);
        assert!(y[..3].iter().all(|y| y.abs() < 1e-30), "{y:?}");
        assert_eq!(&y[3..], &[0.0, 20.0, 100.0]);
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        crate::kernels::seeded();
        for kind in [Kind::Float, Kind::BFloat16] {
            for width in [576, 72, 50] {
                let x = Tensor::randn([9, width], (kind, Device::Cpu));
                let weight = Tensor::randn([width], (Kind::Float, Device::Cpu));
                let norm = rms_norm(&x, &weight, 1e-5).unwrap();
                let sum = rms_norm_add(&x, &weight, 1e-5, &x).unwrap();
                let gates = [Gate::Silu, Gate::GeluTanh].map(|gate| (gate, gated(&x, gate).unwrap()));
                for r in 0..9 {
                    let row = x.narrow(0, r, 1);
                    assert_eq!(rms_norm(&row, &weight, 1e-5).unwrap(), norm.narrow(0, r, 1));
                    assert_eq!(rms_norm_add(&row, &weight, 1e-5, &row).unwrap(), sum.narrow(0, r, 1));
                    for (gate, whole) in &gates {
                        assert_eq!(gated(&row, *gate).unwrap(), whole.narrow(0, r, 1));
                    }
                }
            }
        }
    }
}
