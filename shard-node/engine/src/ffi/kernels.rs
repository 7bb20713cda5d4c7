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

/// Whether this CPU multiplies pairs of bf16 values and has no AMX, for which oneDNN is better: `shim/pairs.cc`.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn pairs_supported() -> bool {
    if super::cpu_level() < 4 {
        return false; // ATEN_CPU_CAPABILITY rules these kernels too
    }
    let mut amx = 0;
    // SAFETY: a pointer to a local.
    unsafe { ll_pairs_supported(&raw mut amx) != 0 && amx == 0 }
}

/// Packs bf16 `weight [outputs, width]`, of an even width, for [`pairs`]; gives `[outputs rounded up to 16, width]`.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn pairs_pack(weight: &Tensor) -> Result<Tensor, TorchError> {
    let (outputs, width) = weight.size2()?;
    check(
        row_format(weight)? == 1 && width % 2 == 0 && outputs > 0,
        "pairs take bf16 weights of an even width",
    )?;
    check(pairs_supported(), "this CPU has no product of bf16 pairs")?;
    let packed = Tensor::f_empty([(outputs + 15) / 16 * 16, width], (Kind::BFloat16, Device::Cpu))?;
    // SAFETY: dense tensors of the sizes just read; `packed` is new and holds whole blocks of 16 rows.
    unsafe { ll_pairs_pack(weight.data_ptr(), packed.data_ptr(), outputs, width) };
    Ok(packed)
}

/// `x [rows, width]` times a weight of [`pairs_pack`] with so many outputs, plus `residual [rows, outputs]`; rounded
/// to bf16 once, or f32 if `wide`.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn pairs(
    x: &Tensor,
    packed: &Tensor,
    outputs: i64,
    residual: Option<&Tensor>,
    wide: bool,
) -> Result<Tensor, TorchError> {
    let ((rows, width), (blocks, packed_width)) = (x.size2()?, packed.size2()?);
    check(row_format(x)? == 1 && row_format(packed)? == 1, "pairs take bf16")?;
    check(
        width == packed_width && blocks == (outputs + 15) / 16 * 16,
        "the packed weight has another shape",
    )?;
    if let Some(residual) = residual {
        check(
            row_format(residual)? == 1 && residual.size() == [rows, outputs],
            "the residual has another shape",
        )?;
    }
    let kind = if wide { Kind::Float } else { Kind::BFloat16 };
    let out = Tensor::f_empty([rows, outputs], (kind, Device::Cpu))?;
    let residual = residual.map_or(std::ptr::null(), |residual| residual.data_ptr().cast_const());
    // SAFETY: dense tensors of the sizes checked above; `out` is new. Packed tensors exist only where the CPU has
    // the instructions, as `pairs_pack` checks.
    unsafe {
        ll_pairs(
            x.data_ptr(),
            packed.data_ptr(),
            residual,
            out.data_ptr(),
            rows,
            width,
            outputs,
            wide.into(),
        );
    }
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
    fn ll_pairs_supported(amx: *mut c_int) -> c_int;
    fn ll_pairs_pack(weight: *const c_void, packed: *mut c_void, outputs: i64, width: i64);
    fn ll_pairs(
        x: *const c_void,
        packed: *const c_void,
        residual: *const c_void,
        out: *mut c_void,
        rows: i64,
        width: i64,
        outputs: i64,
        wide: c_int,
    );
    fn ll_silu_mul(gate_up: *const c_void, out: *mut c_void, rows: i64, n: i64, bf16: c_int);
    fn ll_gelu_mul(gate_up: *const c_void, out: *mut c_void, rows: i64, n: i64, bf16: c_int);
}
