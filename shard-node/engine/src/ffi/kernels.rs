//! The shim's kernels for the CPU, with their sizes checked: `shim/rows.cc`, `attention.cc`, `head.cc`.

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

/// Sizes of one attention layer and the place of a run of positions in a session's cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AppendAt {
    pub(crate) heads: i64,
    pub(crate) kv_heads: i64,
    pub(crate) dim: i64,
    /// First row of the run in `qkv`.
    pub(crate) row: i64,
    /// Rows of the run.
    pub(crate) rows: i64,
    /// Position of the first row; the others follow it.
    pub(crate) start: i64,
}

/// What some families do to heads before rotating them; all f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadExtras<'a> {
    /// `[(heads + 2 kv_heads) dim]`.
    pub(crate) bias: Option<&'a Tensor>,
    /// Factors of the norms of query heads and key heads, each `[dim]`, and epsilon.
    pub(crate) norms: Option<(&'a Tensor, &'a Tensor, f32)>,
}

impl HeadExtras<'_> {
    fn raw(&self, width: i64, dim: i64) -> Result<RawExtras, TorchError> {
        let pointer = |vector: &Tensor, len: i64| {
            check(row_format(vector)? == 0 && vector.size() == [len], "a bias or norm has another shape")?;
            Ok::<_, TorchError>(vector.data_ptr().cast_const().cast::<f32>())
        };
        let mut raw = RawExtras {
            bias: std::ptr::null(),
            query_norm: std::ptr::null(),
            key_norm: std::ptr::null(),
            eps: 0.0,
        };
        if let Some(bias) = self.bias {
            raw.bias = pointer(bias, width)?;
        }
        if let Some((queries, keys, eps)) = self.norms {
            (raw.query_norm, raw.key_norm, raw.eps) = (pointer(queries, dim)?, pointer(keys, dim)?, eps);
        }
        Ok(raw)
    }
}

/// Rotates the queries of a run of rows of `qkv [_, (heads + 2 kv_heads) dim]` in place and appends
/// its rotated keys and its values to `keys`, `values [kv_heads, capacity, dim]`, all after `extras`.
/// `cos`, `sin` are f32 `[positions, dim / 2]`. CPU only.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn rope_append(
    qkv: &mut Tensor,
    extras: HeadExtras<'_>,
    (cos, sin): (&Tensor, &Tensor),
    keys: &mut Tensor,
    values: &mut Tensor,
    at: AppendAt,
) -> Result<(), TorchError> {
    let bf16 = row_format(qkv)?;
    let AppendAt { heads, kv_heads, dim, row, rows, start } = at;
    let (all_rows, width) = qkv.size2()?;
    let (_, capacity, _) = keys.size3()?;
    let (positions, half) = cos.size2()?;
    check(row >= 0 && rows > 0 && row + rows <= all_rows, "rows that qkv does not have")?;
    check(width == (heads + 2 * kv_heads) * dim && heads > 0 && kv_heads > 0, "qkv has another width")?;
    check(dim > 0 && dim <= MAX_HEAD_DIM && half * 2 == dim, "the rotary table has another width")?;
    check(
        keys.size() == [kv_heads, capacity, dim] && values.size() == keys.size(),
        "the cache has another shape",
    )?;
    check(row_format(keys)? == bf16 && row_format(values)? == bf16, "the cache has another type")?;
    check(
        row_format(cos)? == 0 && row_format(sin)? == 0 && sin.size() == cos.size(),
        "the rotary tables differ",
    )?;
    check(start >= 0 && start + rows <= capacity.min(positions), "a position beyond the cache")?;
    let extras = extras.raw(width, dim)?;
    // SAFETY: every index the kernel forms lies inside the sizes checked above; qkv and the caches
    // are separate tensors, borrowed for writing here; the extras outlive the call.
    unsafe {
        let first = row_pointer(qkv, row * width);
        ll_rope_append(
            first,
            &raw const extras,
            cos.data_ptr().cast(),
            sin.data_ptr().cast(),
            keys.data_ptr(),
            values.data_ptr(),
            rows,
            heads,
            kv_heads,
            dim,
            start,
            capacity,
            bf16,
        );
    }
    Ok(())
}

/// One query row and the cache it looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttendJob<'a> {
    /// Row of `qkv` and of the output.
    pub(crate) row: i64,
    /// `[kv_heads, capacity, dim]`.
    pub(crate) keys: &'a Tensor,
    /// `[kv_heads, capacity, dim]`.
    pub(crate) values: &'a Tensor,
    /// First position it sees.
    pub(crate) first: i64,
    /// One past the last.
    pub(crate) end: i64,
}

/// Attention of single rows: queries are the first `heads * dim` elements of a row of `qkv`, the
/// results go to the same row of `out [rows, heads * dim]`; scores are multiplied by `scale`. CPU only.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn attend(
    qkv: &Tensor,
    out: &mut Tensor,
    jobs: &[AttendJob<'_>],
    (heads, kv_heads, dim): (i64, i64, i64),
    scale: f32,
) -> Result<(), TorchError> {
    let bf16 = row_format(qkv)?;
    let (rows, width) = qkv.size2()?;
    check(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "heads that do not share keys evenly")?;
    check(dim > 0 && dim <= MAX_HEAD_DIM && width >= heads * dim, "qkv has another width")?;
    check(row_format(out)? == bf16 && out.size() == [rows, heads * dim], "the output has another shape")?;
    let (mut work, mut last) = (0, -1);
    let mut table = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (_, capacity, _) = job.keys.size3()?;
        check(job.keys.size() == [kv_heads, capacity, dim], "the keys have another shape")?;
        check(job.values.size() == [kv_heads, capacity, dim], "the values have another shape")?;
        check(
            row_format(job.keys)? == bf16 && row_format(job.values)? == bf16,
            "the cache has another type",
        )?;
        check(job.row > last && job.row < rows, "rows out of order or beyond those of qkv")?;
        last = job.row;
        check(0 <= job.first && job.first < job.end && job.end <= capacity, "positions beyond the cache")?;
        let seen = job.end - job.first;
        work += seen * heads * dim;
        // SAFETY: the row exists in both tensors, checked above.
        let (query, out) =
            unsafe { (row_pointer(qkv, job.row * width), row_pointer(out, job.row * heads * dim)) };
        // SAFETY: the first position lies inside the cache, checked above.
        let (keys, values) =
            unsafe { (row_pointer(job.keys, job.first * dim), row_pointer(job.values, job.first * dim)) };
        table.push(AttendRow { query, keys, values, out, seen, capacity });
    }
    // SAFETY: all sizes checked above; every job writes a row of `out` of its own, since they ascend.
    unsafe {
        ll_attend(
            table.as_ptr(),
            table.len() as i64,
            heads,
            kv_heads,
            dim,
            scale,
            bf16,
            (work >= WORTH_A_THREAD).into(),
        );
    }
    Ok(())
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
const WORTH_A_THREAD: i64 = 1 << 18;

/// The element at `offset` of a dense tensor.
///
/// # Safety
/// The tensor has more than `offset` elements, dense on the CPU.
#[expect(unsafe_code, reason = "pointer arithmetic inside a tensor")]
unsafe fn row_pointer(tensor: &Tensor, offset: i64) -> *mut c_void {
    let bytes = offset as usize * tensor.kind().elt_size_in_bytes();
    // SAFETY: the caller's promise.
    unsafe { tensor.data_ptr().cast::<u8>().add(bytes).cast() }
}

/// The widest head the kernels hold on their stack; `kMaxDim` in `shim/rows.cc`.
pub(crate) const MAX_HEAD_DIM: i64 = 512;

/// `HeadExtras` of `shim/rows.cc`.
#[repr(C)]
struct RawExtras {
    bias: *const f32,
    query_norm: *const f32,
    key_norm: *const f32,
    eps: f32,
}

/// `AttendRow` of `shim/attention.cc`.
#[repr(C)]
struct AttendRow {
    query: *const c_void,
    keys: *const c_void,
    values: *const c_void,
    out: *mut c_void,
    seen: i64,
    capacity: i64,
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
    fn ll_rope_append(
        qkv: *mut c_void,
        extras: *const RawExtras,
        cos: *const f32,
        sin: *const f32,
        keys: *mut c_void,
        values: *mut c_void,
        rows: i64,
        heads: i64,
        kv_heads: i64,
        dim: i64,
        start: i64,
        capacity: i64,
        bf16: c_int,
    );
    fn ll_attend(
        rows: *const AttendRow,
        count: i64,
        heads: i64,
        kv_heads: i64,
        dim: i64,
        scale: f32,
        bf16: c_int,
        together: c_int,
    );
    fn ll_head(x: *const f32, table: *const c_void, out: *mut f32, rows: i64, width: i64, vocab: i64);
    fn ll_silu_mul(gate_up: *const c_void, out: *mut c_void, rows: i64, n: i64, bf16: c_int);
    fn ll_gelu_mul(gate_up: *const c_void, out: *mut c_void, rows: i64, n: i64, bf16: c_int);
}
