//! The shim's kernels for the CPU, with their sizes checked: `shim/rows.cc`, `head.cc`, `pairs.cc`. Those around the KV
//! are in [`super::attention`].

use std::ffi::{c_int, c_void};

use tch::{Device, Kind, Tensor};

use super::TorchError;

/// How the row kernels read a tensor: dense rows on the CPU, f32 or bf16.
pub(super) fn row_format(tensor: &Tensor) -> Result<c_int, TorchError> {
    let dense = tensor.device() == Device::Cpu && tensor.is_contiguous();
    match tensor.kind() {
        Kind::Float if dense => Ok(0),
        Kind::BFloat16 if dense => Ok(1),
        kind => {
            Err(TorchError(format!("row kernels take dense f32 or bf16 on the CPU, not {kind:?}").into()))
        }
    }
}

pub(super) fn check(holds: bool, what: &str) -> Result<(), TorchError> {
    if holds { Ok(()) } else { Err(TorchError(format!("row kernel: {what}").into())) }
}

/// `x / rms(x) * weight` for each row; `x [rows, n]`, `weight` f32 `[n]`. CPU only.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor, TorchError> {
    norm(x, weight, eps, None)
}

/// The same plus `residual [rows, n]`. CPU only.
pub(crate) fn rms_norm_add(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    residual: &Tensor,
) -> Result<Tensor, TorchError> {
    norm(x, weight, eps, Some(residual))
}

#[expect(unsafe_code, reason = "calls the shim")]
fn norm(x: &Tensor, weight: &Tensor, eps: f32, residual: Option<&Tensor>) -> Result<Tensor, TorchError> {
    let bf16 = row_format(x)?;
    let (rows, n) = x.size2()?;
    check(row_format(weight)? == 0 && weight.size() == [n], "the norm's weight has another shape")?;
    if let Some(residual) = residual {
        check(
            row_format(residual)? == bf16 && residual.size() == [rows, n],
            "the residual has another type or shape",
        )?;
    }
    let residual = residual.map_or(std::ptr::null(), |residual| residual.data_ptr().cast_const());
    let out = x.f_empty_like()?;
    check(row_format(&out)? == bf16, "no dense output")?;
    // SAFETY: dense tensors of the sizes checked above; `out` is new, so nothing else sees it.
    unsafe {
        ll_rms_norm(x.data_ptr(), weight.data_ptr().cast(), residual, out.data_ptr(), rows, n, eps, bf16);
    }
    Ok(out)
}

/// `silu(gate) * up`, or `gelu(gate) * up` by the tanh formula, for `gate_up [rows, 2 n]`; gives `[rows, n]`.
/// CPU only.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn gated(gate_up: &Tensor, gelu: bool) -> Result<Tensor, TorchError> {
    let bf16 = row_format(gate_up)?;
    let (rows, width) = gate_up.size2()?;
    let out = Tensor::f_empty([rows, width / 2], (gate_up.kind(), Device::Cpu))?;
    let kernel = if gelu { ll_gelu_mul } else { ll_silu_mul };
    // SAFETY: dense tensors; either kernel reads rows * 2 * (width / 2) values and writes half of that.
    unsafe { kernel(gate_up.data_ptr(), out.data_ptr(), rows, width / 2, bf16) };
    Ok(out)
}

/// `x` f32 `[rows, width]` times `table` bf16 `[vocab, width]`, to f32 `[rows, vocab]`. CPU only.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn head(x: &Tensor, table: &Tensor) -> Result<Tensor, TorchError> {
    let ((rows, width), (vocab, table_width)) = (x.size2()?, table.size2()?);
    check(row_format(x)? == 0 && row_format(table)? == 1, "the head takes f32 rows and a bf16 table")?;
    check(width == table_width, "the head has another width")?;
    let out = Tensor::f_empty([rows, vocab], (Kind::Float, Device::Cpu))?;
    // SAFETY: dense tensors of the sizes just read; `out` is new.
    unsafe {
        ll_head(x.data_ptr().cast(), table.data_ptr(), out.data_ptr().cast(), rows, width, vocab);
    };
    Ok(out)
}

/// Multiplications that take as long as waking a second thread, about 5 us.
pub(super) const WORTH_A_THREAD: i64 = 1 << 18;

/// The element at `offset` of a dense tensor.
///
/// # Safety
/// The tensor has more than `offset` elements, dense on the CPU.
#[expect(unsafe_code, reason = "pointer arithmetic inside a tensor")]
pub(super) unsafe fn row_pointer(tensor: &Tensor, offset: i64) -> *mut c_void {
    let bytes = offset as usize * tensor.kind().elt_size_in_bytes();
    // SAFETY: the caller's promise.
    unsafe { tensor.data_ptr().cast::<u8>().add(bytes).cast() }
}

#[expect(unsafe_code, reason = "declares the shim")]
unsafe extern "C" {
    fn ll_rms_norm(
        x: *const c_void,
        weight: *const f32,
        residual: *const c_void,
        out: *mut c_void,
        rows: i64,
        n: i64,
        eps: f32,
        bf16: c_int,
    );
    fn ll_head(x: *const f32, table: *const c_void, out: *mut f32, rows: i64, width: i64, vocab: i64);
    fn ll_silu_mul(gate_up: *const c_void, out: *mut c_void, rows: i64, n: i64, bf16: c_int);
    fn ll_gelu_mul(gate_up: *const c_void, out: *mut c_void, rows: i64, n: i64, bf16: c_int);
}
