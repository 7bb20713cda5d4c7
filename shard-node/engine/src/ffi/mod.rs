//! All unsafe code of the engine: the C++ shim, tensors over borrowed memory, and `dlopen`; the row
//! kernels are in [`kernels`] and [`attention`], GPUs and their border in [`device`].
//!
//! Each function checks what its safety rests on and is safe to call. It knows nothing of models;
//! what the pieces are for stands where they are used.

mod attention;
mod device;
mod kernels;
mod pairs;
mod panels;
mod team;

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use tch::{Device, Kind, Tensor};

pub(crate) use attention::{
    AppendAt, AttendJob, HeadExtras, KvTensors, MAX_HEAD_DIM, attend, rope_append, widen_heads,
};
pub use device::DeviceMemory;
pub(crate) use device::{device_memory, enter_device, synchronise, to_device, to_host};
pub(crate) use kernels::{gated, head, rms_norm, rms_norm_add};
#[cfg(test)]
pub(crate) use pairs::without_tiles;
pub(crate) use pairs::{BLOCK, PairsLevel, pairs, pairs_level, pairs_packed, tiles_usable};
pub(crate) use panels::{
    GROUP, MAX_WIDTH, PANEL_ROWS, PanelFormat, PanelLevel, PanelMatrix, pack_panel, panels, panels_fine,
};
pub(crate) use team::{team, team_rest, team_rouse};

/// Something libtorch or the shim refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct TorchError(pub(crate) Box<str>);

impl From<tch::TchError> for TorchError {
    fn from(error: tch::TchError) -> Self {
        let text = error.to_string();
        // libtorch appends a C++ stack trace of dozens of lines; its first line says what is wrong.
        let first = text.split("\nException raised from").next().unwrap_or(&text);
        Self(first.trim().into())
    }
}

/// Inference mode on the thread that made it, until it is dropped there.
///
/// Tensors made under it carry no version counter and no autograd state, which saves a tenth to a
/// fifth of each small operator. Thread-local, so the guard is `!Send`.
#[derive(Debug)]
pub(crate) struct InferenceMode(*mut c_void);

impl InferenceMode {
    /// Enters inference mode on the calling thread.
    #[expect(unsafe_code, reason = "calls the shim")]
    pub(crate) fn enter() -> Result<Self, TorchError> {
        // SAFETY: no arguments; null means an error.
        let guard = unsafe { ll_inference_begin() };
        if guard.is_null() { Err(last_error()) } else { Ok(Self(guard)) }
    }
}

impl Drop for InferenceMode {
    #[expect(unsafe_code, reason = "calls the shim")]
    fn drop(&mut self) {
        // SAFETY: made by ll_inference_begin on this thread (the type is !Send), freed once.
        unsafe { ll_inference_end(self.0) }
    }
}

/// The vector level of `ATen`'s own CPU kernels: `DEFAULT`, `AVX2`, `AVX512`.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn cpu_capability() -> String {
    // SAFETY: the shim returns a string that lives until this thread's next call of it.
    unsafe { CStr::from_ptr(ll_cpu_capability()) }.to_string_lossy().into_owned()
}

/// The x86-64 level of the shim's kernels: 0, 3 or 4. It follows `ATEN_CPU_CAPABILITY`.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn cpu_level() -> c_int {
    // SAFETY: no arguments.
    unsafe { ll_cpu_level() }
}

/// Runs `f` with the shim's kernels on this thread held to an x86-64 level.
#[cfg(test)]
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn at_cpu_level<R>(level: c_int, f: impl FnOnce() -> R) -> R {
    // SAFETY: sets a number of this thread.
    let before = unsafe { ll_force_cpu_level(level) };
    let result = f();
    // SAFETY: as above.
    unsafe { ll_force_cpu_level(before) };
    result
}

/// Whether oneDNN has bf16 kernels on this CPU, as limited by `ONEDNN_MAX_CPU_ISA`.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn onednn_has_bf16() -> Result<bool, TorchError> {
    // SAFETY: no arguments.
    match unsafe { ll_onednn_bf16() } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(last_error()),
    }
}

/// Repacks a `[out, in]` weight into oneDNN's blocked layout.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn linear_pack(weight: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: `weight` is a live tensor; the result is null or a new tensor that we own.
    unsafe { owned(ll_linear_pack(weight.as_ptr(), 0)) }
}

/// `x [rows, in]` times a packed weight.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn linear_packed(x: &Tensor, weight: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: live tensors, a null bias is allowed, the name is a C string.
    unsafe { owned(ll_linear(x.as_ptr(), weight.as_ptr(), std::ptr::null(), c"none".as_ptr())) }
}

/// `x [rows, in]` times a packed weight, plus `residual [rows, out]`.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn linear_packed_add(
    x: &Tensor,
    weight: &Tensor,
    residual: &Tensor,
) -> Result<Tensor, TorchError> {
    // SAFETY: live tensors, the name is a C string.
    unsafe { owned(ll_linear_binary(x.as_ptr(), residual.as_ptr(), weight.as_ptr(), c"add".as_ptr())) }
}

/// Opens a shared library for the rest of the process, its symbols visible to all others.
///
/// The error is the dynamic loader's own sentence.
#[expect(unsafe_code, reason = "dlopen")]
pub(crate) fn open_library_globally(name: &str) -> Result<(), String> {
    let name = CString::new(name).map_err(|_| "the name holds a zero byte".to_owned())?;
    // SAFETY: a C string and flags; the handle is deliberately never closed.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a string that lives until the next dl* call of this thread.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
    };
    Err(reason.unwrap_or_else(|| "no reason given".to_owned()))
}

/// Runs `f` on a CPU tensor that borrows `bytes` instead of copying them.
///
/// `f` must not keep the tensor or a view of it: it gets a reference only, and every operator
/// that could return a view of its argument is followed by a copy where this is used.
/// `None` when the bytes are not aligned for `kind` or not exactly `shape` values.
#[expect(unsafe_code, reason = "a tensor over borrowed memory")]
pub(crate) fn with_borrowed<R>(
    bytes: &[u8],
    shape: &[i64],
    kind: Kind,
    f: impl FnOnce(&Tensor) -> R,
) -> Option<R> {
    let values = shape.iter().try_fold(1i64, |n, &d| if d < 0 { None } else { n.checked_mul(d) })?;
    let size = i64::try_from(kind.elt_size_in_bytes()).ok()?;
    let fits = values.checked_mul(size) == i64::try_from(bytes.len()).ok();
    if !fits || bytes.as_ptr().align_offset(kind.elt_size_in_bytes()) != 0 {
        return None;
    }
    // SAFETY: length and alignment checked above; the borrow of `bytes` outlives `tensor`, which is
    // dropped here; nothing writes through it because callers only read from it.
    let tensor = unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &[], kind, Device::Cpu) }.ok()?;
    Some(f(&tensor))
}

/// The bytes of a contiguous CPU tensor, or `None` for any other.
#[expect(unsafe_code, reason = "reads a tensor's memory")]
pub(crate) fn contiguous_bytes(tensor: &Tensor) -> Option<&[u8]> {
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() || tensor.is_mkldnn() {
        return None;
    }
    let len = tensor.numel() * tensor.kind().elt_size_in_bytes();
    if len == 0 {
        return Some(&[]);
    }
    // SAFETY: a contiguous CPU tensor owns `len` initialised bytes from data_ptr on, alive while
    // `tensor` is borrowed; this crate writes to a tensor only through `&mut` or before sharing it.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), len) })
}

/// The values of a contiguous f32 CPU tensor, or `None` for any other.
#[expect(unsafe_code, reason = "reads a tensor's memory")]
pub(crate) fn contiguous_f32(tensor: &Tensor) -> Option<&[f32]> {
    if tensor.kind() != Kind::Float {
        return None;
    }
    let bytes = contiguous_bytes(tensor)?;
    // SAFETY: f32 has no invalid bits.
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

/// The values of a contiguous bf16 CPU tensor, or `None` for any other.
pub(crate) fn contiguous_bf16(tensor: &Tensor) -> Option<&[shard_node_weights::Bf16]> {
    if tensor.kind() != Kind::BFloat16 {
        return None;
    }
    let bytes = contiguous_bytes(tensor)?;
    #[expect(unsafe_code, reason = "reads a tensor's memory")]
    // SAFETY: the transparent Bf16 has no invalid bits.
    let (before, values, after) = unsafe { bytes.align_to::<shard_node_weights::Bf16>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

/// A number type whose slices can be a tensor's memory.
pub(crate) trait Value: shard_node_weights::Element + Send {
    /// The tensor type with this layout.
    const KIND: Kind;
}

impl Value for f32 {
    const KIND: Kind = Kind::Float;
}

impl Value for shard_node_weights::Bf16 {
    const KIND: Kind = Kind::BFloat16;
}

/// Makes a CPU tensor of zeros of that shape and lets `fill` write its values.
#[expect(unsafe_code, reason = "writes a tensor's memory")]
pub(crate) fn filled<T: Value, E>(
    shape: &[i64],
    fill: impl FnOnce(&mut [T]) -> Result<(), E>,
) -> Result<Result<Tensor, E>, TorchError> {
    let tensor = Tensor::f_zeros(shape, (T::KIND, Device::Cpu))?;
    // SAFETY: a new dense tensor that nothing else refers to, with `numel` values of T's layout
    // (KIND is implemented next to it for f32 and for the transparent Bf16), aligned by the allocator.
    let values = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<T>(), tensor.numel()) };
    Ok(fill(values).map(|()| tensor))
}

/// Makes a CPU tensor of `len` zero bytes and lets `fill` write them.
#[expect(unsafe_code, reason = "writes a tensor's memory")]
pub(crate) fn filled_bytes<E>(
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Result<Tensor, E>, TorchError> {
    let tensor = Tensor::f_zeros([len as i64], (Kind::Uint8, Device::Cpu))?;
    if len == 0 {
        return Ok(fill(&mut []).map(|()| tensor));
    }
    // SAFETY: a new dense tensor of `len` bytes that nothing else refers to.
    let bytes = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), len) };
    Ok(fill(bytes).map(|()| tensor))
}

/// The last refusal of the shim on this thread.
#[expect(unsafe_code, reason = "calls the shim")]
fn last_error() -> TorchError {
    // SAFETY: the shim's thread-local string lives until this thread's next failing call.
    TorchError(unsafe { CStr::from_ptr(ll_last_error()) }.to_string_lossy().into())
}

/// Takes ownership of a tensor made by the shim.
///
/// # Safety
/// `tensor` is null or was made by `new at::Tensor` and is owned by nobody else.
#[expect(unsafe_code, reason = "wraps a raw pointer")]
unsafe fn owned(tensor: *mut torch_sys::C_tensor) -> Result<Tensor, TorchError> {
    if tensor.is_null() {
        return Err(last_error());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { Tensor::from_ptr(tensor) })
}

#[expect(unsafe_code, reason = "declares the shim")]
unsafe extern "C" {
    fn ll_last_error() -> *const c_char;
    fn ll_inference_begin() -> *mut c_void;
    fn ll_inference_end(guard: *mut c_void);
    fn ll_cpu_capability() -> *const c_char;
    fn ll_cpu_level() -> c_int;
    #[cfg(test)]
    fn ll_force_cpu_level(level: c_int) -> c_int;
    fn ll_onednn_bf16() -> c_int;
    fn ll_linear_pack(weight: *const torch_sys::C_tensor, rows: i64) -> *mut torch_sys::C_tensor;
    fn ll_linear(
        x: *const torch_sys::C_tensor,
        weight: *const torch_sys::C_tensor,
        bias: *const torch_sys::C_tensor,
        activation: *const c_char,
    ) -> *mut torch_sys::C_tensor;
    fn ll_linear_binary(
        x: *const torch_sys::C_tensor,
        other: *const torch_sys::C_tensor,
        weight: *const torch_sys::C_tensor,
        operation: *const c_char,
    ) -> *mut torch_sys::C_tensor;
}
