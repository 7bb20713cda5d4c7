//! The shim's kernels around the KV, with their sizes checked: appending and widening in `shim/rows.cc`, and
//! `shim/attention.cc`.

use std::ffi::{c_int, c_void};

use tch::{Device, Kind, Tensor};

use super::TorchError;
use super::kernels::{WORTH_A_THREAD, check, row_format, row_pointer};

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

/// Keys and values of a layer, each `[kv_heads, capacity, dim]`, in the activations' type or in 8 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvTensors<'a> {
    pub(crate) keys: &'a Tensor,
    pub(crate) values: &'a Tensor,
    /// Of keys and values in 8 bits, each f32 `[kv_heads, capacity]`.
    pub(crate) scales: Option<(&'a Tensor, &'a Tensor)>,
}

impl KvTensors<'_> {
    /// Gives the capacity, if everything has the sizes and types that kernels with activations of type `bf16` read.
    fn capacity(&self, bf16: c_int, kv_heads: i64, dim: i64) -> Result<i64, TorchError> {
        let (_, capacity, _) = self.keys.size3()?;
        check(
            self.keys.size() == [kv_heads, capacity, dim] && self.values.size() == self.keys.size(),
            "the cache has another shape",
        )?;
        let Some((keys, values)) = self.scales else {
            let same = row_format(self.keys)? == bf16 && row_format(self.values)? == bf16;
            check(same, "the cache has another type")?;
            return Ok(capacity);
        };
        check(
            bf16 == 1 && is_dense_bytes(self.keys) && is_dense_bytes(self.values),
            "a cache in 8 bits is dense, on the CPU, and of bf16 activations",
        )?;
        for scales in [keys, values] {
            let fits = row_format(scales)? == 0 && scales.size() == [kv_heads, capacity];
            check(fits, "the cache's scales have another type or shape")?;
        }
        Ok(capacity)
    }

    /// Addresses of keys, values and their scales from a position on; null where there are none.
    ///
    /// # Safety
    /// The sizes have been checked by [`capacity`](Self::capacity), and `position` lies below it.
    #[expect(unsafe_code, reason = "pointer arithmetic inside a tensor")]
    unsafe fn from(&self, position: i64) -> (*mut c_void, *mut c_void, [*mut f32; 2]) {
        let dim = self.keys.size()[2];
        // SAFETY: the first head has an element at that offset, by the caller's promise.
        unsafe {
            let scales = self.scales.map_or([std::ptr::null_mut(); 2], |(keys, values)| {
                [keys, values].map(|scales| row_pointer(scales, position).cast())
            });
            (row_pointer(self.keys, position * dim), row_pointer(self.values, position * dim), scales)
        }
    }
}

fn is_dense_bytes(tensor: &Tensor) -> bool {
    tensor.kind() == Kind::Int8 && tensor.device() == Device::Cpu && tensor.is_contiguous()
}

/// Rotates the queries of a run of rows of `qkv [_, (heads + 2 kv_heads) dim]` in place and appends
/// its rotated keys and its values to the cache, all after `extras`.
/// `cos`, `sin` are f32 `[positions, dim / 2]`. CPU only.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn rope_append(
    qkv: &mut Tensor,
    extras: HeadExtras<'_>,
    (cos, sin): (&Tensor, &Tensor),
    cache: KvTensors<'_>,
    at: AppendAt,
) -> Result<(), TorchError> {
    let bf16 = row_format(qkv)?;
    let AppendAt { heads, kv_heads, dim, row, rows, start } = at;
    let (all_rows, width) = qkv.size2()?;
    let (positions, half) = cos.size2()?;
    check(row >= 0 && rows > 0 && row + rows <= all_rows, "rows that qkv does not have")?;
    check(width == (heads + 2 * kv_heads) * dim && heads > 0 && kv_heads > 0, "qkv has another width")?;
    check(dim > 0 && dim <= MAX_HEAD_DIM && half * 2 == dim, "the rotary table has another width")?;
    let capacity = cache.capacity(bf16, kv_heads, dim)?;
    check(
        row_format(cos)? == 0 && row_format(sin)? == 0 && sin.size() == cos.size(),
        "the rotary tables differ",
    )?;
    check(start >= 0 && start + rows <= capacity.min(positions), "a position beyond the cache")?;
    let extras = extras.raw(width, dim)?;
    // SAFETY: every index the kernel forms lies inside the sizes checked above; qkv and the caches
    // are separate tensors, and nothing else looks at them on this thread; the extras outlive the call.
    unsafe {
        let (keys, values, [key_scales, value_scales]) = cache.from(0);
        let first = row_pointer(qkv, row * width);
        ll_rope_append(
            first,
            &raw const extras,
            cos.data_ptr().cast(),
            sin.data_ptr().cast(),
            keys,
            values,
            key_scales,
            value_scales,
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
    pub(crate) cache: KvTensors<'a>,
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
    let quantised = jobs.first().is_some_and(|job| job.cache.scales.is_some());
    let (mut work, mut last) = (0, -1);
    let mut table = Vec::with_capacity(jobs.len());
    for job in jobs {
        let capacity = job.cache.capacity(bf16, kv_heads, dim)?;
        check(job.cache.scales.is_some() == quantised, "caches of two types")?;
        check(job.row > last && job.row < rows, "rows out of order or beyond those of qkv")?;
        last = job.row;
        check(0 <= job.first && job.first < job.end && job.end <= capacity, "positions beyond the cache")?;
        let seen = job.end - job.first;
        work += seen * heads * dim;
        // SAFETY: the row exists in both tensors, checked above.
        let (query, out) =
            unsafe { (row_pointer(qkv, job.row * width), row_pointer(out, job.row * heads * dim)) };
        // SAFETY: the first position lies inside the cache, checked above.
        let (keys, values, [key_scales, value_scales]) = unsafe { job.cache.from(job.first) };
        table.push(AttendRow { query, keys, values, key_scales, value_scales, out, seen, capacity });
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

/// Positions `first..end` of `heads [kv_heads, capacity, dim]` in 8 bits with their `scales [kv_heads, capacity]`, as
/// bf16 `[kv_heads, end - first, dim]`. CPU only.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn widen_heads(
    heads: &Tensor,
    scales: &Tensor,
    (first, end): (i64, i64),
) -> Result<Tensor, TorchError> {
    let (kv_heads, capacity, dim) = heads.size3()?;
    check(is_dense_bytes(heads), "heads in 8 bits are dense and on the CPU")?;
    check(
        row_format(scales)? == 0 && scales.size() == [kv_heads, capacity],
        "the scales have another shape",
    )?;
    check(0 <= first && first < end && end <= capacity, "positions beyond the cache")?;
    let out = Tensor::f_empty([kv_heads, end - first, dim], (Kind::BFloat16, Device::Cpu))?;
    for head in 0..kv_heads {
        let at = head * capacity + first;
        // SAFETY: the head has positions first..end, checked above, and `out` is new and has a place for each.
        unsafe {
            let (from, scale) = (row_pointer(heads, at * dim).cast(), row_pointer(scales, at).cast());
            let to = row_pointer(&out, head * (end - first) * dim);
            ll_widen_heads(from, scale, to, end - first, dim);
        }
    }
    Ok(out)
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
    key_scales: *const f32,
    value_scales: *const f32,
    out: *mut c_void,
    seen: i64,
    capacity: i64,
}

#[expect(unsafe_code, reason = "declares the shim")]
unsafe extern "C" {
    fn ll_rope_append(
        qkv: *mut c_void,
        extras: *const RawExtras,
        cos: *const f32,
        sin: *const f32,
        keys: *mut c_void,
        values: *mut c_void,
        key_scales: *mut f32,
        value_scales: *mut f32,
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
    fn ll_widen_heads(heads: *const i8, scales: *const f32, out: *mut c_void, rows: i64, dim: i64);
}
