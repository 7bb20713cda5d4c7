//! Products of bf16 pairs and how their weights are packed, with sizes checked: `shim/pairs.cc`, `pairs_amx.cc`,
//! `pairs_avx2.cc`.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use shard_node_weights::Bf16;
use tch::{Device, Kind, Tensor};

use super::TorchError;
use super::kernels::{check, row_format};

/// How this CPU multiplies pairs of bf16 values, if it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PairsLevel {
    /// As f32, with AVX2 and FMA.
    Avx2,
    /// By instructions of their own: AVX512-BF16, AMX.
    Bf16,
}

/// What this CPU has for pairs of bf16 values.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn pairs_level() -> Option<PairsLevel> {
    // SAFETY: no arguments.
    match unsafe { ll_pairs_supported() } {
        0 => None,
        1 => Some(PairsLevel::Avx2),
        _ => Some(PairsLevel::Bf16),
    }
}

/// Whether it does so by the tiles of AMX.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn tiles_usable() -> bool {
    // SAFETY: no arguments.
    unsafe { ll_amx_usable() != 0 }
}

/// Runs `f` with the shim's kernels on this thread taking no tiles.
#[cfg(test)]
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn without_tiles<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: sets a flag of this thread.
    let before = unsafe { ll_without_tiles(1) };
    let result = f();
    // SAFETY: as above.
    unsafe { ll_without_tiles(before) };
    result
}

/// Packs a matrix of `outputs` rows of an even `width` for [`pairs`], on so many threads; gives
/// `[outputs rounded up to 16, width]`. `row` writes a row's values; `packed` is told of rows that are not asked for
/// again. The first error ends it.
#[expect(unsafe_code, reason = "writes a tensor's memory")]
pub(crate) fn pairs_packed<E: Send>(
    (outputs, width): (usize, usize),
    threads: usize,
    row: impl Fn(usize, &mut [Bf16]) -> Result<(), E> + Sync,
    packed: impl Fn(Range<usize>) + Sync,
) -> Result<Result<Tensor, E>, TorchError> {
    check(pairs_level().is_some(), "this CPU has no product of bf16 pairs")?;
    check(outputs > 0 && width > 0 && width.is_multiple_of(2), "pairs take weights of an even width")?;
    check(width <= MOST_WIDTH, "pairs take no rows that long")?;
    let blocks = outputs.div_ceil(BLOCK);
    let shape = [(blocks * BLOCK) as i64, width as i64];
    let tensor = Tensor::f_empty(shape, (Kind::BFloat16, Device::Cpu))?;
    huge_pages(&tensor);
    let target = tensor.data_ptr() as usize;
    let stride = width + PADDING;
    let band = (BAND_BYTES / (BLOCK * width * 2)).max(1);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut rows = vec![Bf16::default(); BLOCK * stride];
        loop {
            let first = next.fetch_add(1, Ordering::Relaxed).saturating_mul(band);
            if first >= blocks {
                return Ok(());
            }
            let last = (first + band).min(blocks);
            for block in first..last {
                for (at, values) in rows.chunks_exact_mut(stride).enumerate() {
                    let (values, index) = (&mut values[..width], block * BLOCK + at);
                    if index < outputs {
                        row(index, values).inspect_err(|_| next.store(blocks, Ordering::Relaxed))?;
                    } else {
                        values.fill(Bf16::default());
                    }
                }
                let bytes = block * BLOCK * width * size_of::<Bf16>();
                // SAFETY: `rows` holds 16 rows `stride` apart; the tensor has `blocks` blocks of 16 rows and nothing
                // else refers to it; `next` gives each block to one thread, and the threads end before it is given on.
                unsafe {
                    ll_pairs_pack_block(
                        rows.as_ptr().cast(),
                        stride as i64,
                        width as i64,
                        (target + bytes) as *mut c_void,
                    );
                }
            }
            packed(first * BLOCK..(last * BLOCK).min(outputs));
        }
    };
    let filled = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(blocks.div_ceil(band))).map(|_| scope.spawn(work)).collect();
        others.into_iter().fold(work(), |result, thread| match thread.join() {
            Ok(filled) => result.and(filled),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    Ok(filled.map(|()| tensor))
}

/// `x [rows, width]` times a weight of [`pairs_packed`] with so many outputs, plus `residual [rows, outputs]`; rounded
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
    // the instructions, as `pairs_packed` checks.
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

/// Asks for pages of 2 MiB where whole ones fit: a matrix takes hundreds of page faults less, and a product that reads
/// it misses fewer addresses. A wish: without them it works as well.
#[expect(unsafe_code, reason = "madvise")]
fn huge_pages(tensor: &Tensor) {
    const HUGE: usize = 2 << 20;
    let begin = tensor.data_ptr() as usize;
    let end = begin + tensor.numel() * tensor.kind().elt_size_in_bytes();
    let (first, last) = (begin.next_multiple_of(HUGE), end / HUGE * HUGE);
    if first < last {
        // SAFETY: whole pages inside the tensor's own memory; the advice changes no byte.
        unsafe { libc::madvise(first as *mut c_void, last - first, libc::MADV_HUGEPAGE) };
    }
}

/// Outputs of a block; `kBlock` in `shim/pairs.h`.
pub(crate) const BLOCK: usize = 16;
/// Between rows to be packed: rows 4 KiB apart would share one set of the first-level cache.
const PADDING: usize = 32;
/// The gather that packs counts values in 32 bits, 16 rows of them.
const MOST_WIDTH: usize = 1 << 24;
/// What a thread packs between two looks at what is left, and before it gives source pages back.
const BAND_BYTES: usize = 1 << 20;

#[expect(unsafe_code, reason = "declares the shim")]
unsafe extern "C" {
    fn ll_pairs_supported() -> c_int;
    fn ll_amx_usable() -> c_int;
    #[cfg(test)]
    fn ll_without_tiles(off: c_int) -> c_int;
    fn ll_pairs_pack_block(rows: *const c_void, stride: i64, width: i64, packed: *mut c_void);
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
}
