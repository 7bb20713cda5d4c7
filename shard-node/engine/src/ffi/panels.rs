//! Quantised panels and products with them, sizes checked: `shim/panels.cc`, `shim/panels_pack.cc`.

use std::ffi::{c_int, c_void};

use tch::{Device, Kind, Tensor};

use super::TorchError;

/// How a panel's bytes are read; `Format` in `shim/panels.h`, which describes the layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum PanelFormat {
    /// A byte for a weight, a scale for a row.
    Int8 = 0,
    /// A nibble for a weight, a scale for 32.
    Int4 = 1,
    /// A nibble for a weight, a scale and a minimum for 32.
    Int4Min = 2,
}

/// Output rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;
/// Values that share a scale in the int4 formats; widths are padded to whole groups in all.
pub(crate) const GROUP: usize = 32;

impl PanelFormat {
    /// Bytes of a panel of `padded` columns, a multiple of [`GROUP`].
    pub(crate) fn panel_bytes(self, padded: usize) -> usize {
        padded / GROUP * self.group_bytes()
    }

    /// Bytes of the part of a panel that is [`GROUP`] columns wide.
    pub(crate) fn group_bytes(self) -> usize {
        match self {
            Self::Int8 => PANEL_ROWS * GROUP,
            Self::Int4 => PANEL_ROWS * (GROUP / 2 + 2),
            Self::Int4Min => PANEL_ROWS * (GROUP / 2 + 4),
        }
    }
}

/// Which of the shim's kernels multiply: what vectors the CPU has. Both kinds of vectors give the same bits in `int8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub(crate) enum PanelLevel {
    /// Any x86-64.
    Plain = 0,
    /// AVX2 and FMA.
    Avx2 = 1,
    /// AVX-512 with VNNI.
    Avx512 = 2,
    /// The same for few rows, AMX for many: the same bits.
    Amx = 3,
}

impl PanelLevel {
    /// The best on this CPU; `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` lower it as they lower the
    /// library's own kernels.
    #[expect(unsafe_code, reason = "calls the shim")]
    pub(crate) fn best() -> Self {
        // SAFETY: no arguments.
        let cpu = match unsafe { ll_panel_level() } {
            3 => Self::Amx,
            2 => Self::Avx512,
            1 => Self::Avx2,
            _ => Self::Plain,
        };
        let library = super::cpu_capability();
        let allowed = match () {
            () if library.starts_with("AVX512") => Self::Amx,
            () if library.starts_with("AVX2") => Self::Avx2,
            () => Self::Plain,
        };
        cpu.min(allowed)
    }
}

/// A matrix of panels, all of it in dense CPU tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PanelMatrix<'a> {
    /// `ceil(out / 16)` panels of bytes.
    pub(crate) panels: &'a Tensor,
    /// Of each output row, padded to whole panels; for `Int8` only.
    pub(crate) scales: Option<&'a Tensor>,
    pub(crate) out: usize,
    pub(crate) width: usize,
    pub(crate) format: PanelFormat,
    pub(crate) level: PanelLevel,
}

/// `x [rows, width]` in f32 or bf16 times the panels, plus `residual [rows, out]`, as `kind`.
pub(crate) fn panels(
    x: &Tensor,
    matrix: PanelMatrix<'_>,
    residual: Option<&Tensor>,
    kind: Kind,
) -> Result<Tensor, TorchError> {
    product(x, matrix, residual, kind, 1)
}

/// The same without a residual, in f32, `x` rounded to 8 bits and what that leaves over to 8 bits again.
pub(crate) fn panels_fine(x: &Tensor, matrix: PanelMatrix<'_>) -> Result<Tensor, TorchError> {
    let both = product(x, matrix, None, Kind::Float, 2)?;
    let rows = x.size2()?.0;
    Ok(both.f_narrow(0, 0, rows)?.f_add(&both.f_narrow(0, rows, rows)?)?)
}

/// `terms * rows` rows: with 2 terms the results of what rounding left over follow the others.
#[expect(unsafe_code, reason = "calls the shim")]
fn product(
    x: &Tensor,
    matrix: PanelMatrix<'_>,
    residual: Option<&Tensor>,
    kind: Kind,
    terms: i64,
) -> Result<Tensor, TorchError> {
    let PanelMatrix { panels, scales, out, width, format, level } = matrix;
    let (rows, columns) = x.size2()?;
    let padded = width.next_multiple_of(GROUP);
    let count = out.div_ceil(PANEL_ROWS);
    let panel_bytes = format.panel_bytes(padded);
    let x_bf16 = super::kernels::row_format(x)?;
    let holds = |holds: bool, what: &str| super::kernels::check(holds, what);
    holds(columns == width as i64, "x has another width than the panels")?;
    holds(width <= MAX_WIDTH, "a width whose sums overflow")?;
    holds(panels.kind() == Kind::Uint8 && is_dense(panels), "panels are dense bytes")?;
    holds(panels.numel() == count * panel_bytes, "the panels have another size")?;
    holds((format == PanelFormat::Int8) == scales.is_some(), "scales belong to int8")?;
    if let Some(scales) = scales {
        holds(super::kernels::row_format(scales)? == 0, "scales are f32")?;
        holds(scales.numel() == count * PANEL_ROWS, "the scales have another size")?;
    }
    holds(terms == 1 || residual.is_none(), "a residual for each term")?;
    let y = Tensor::f_empty([rows * terms, out as i64], (kind, Device::Cpu))?;
    let y_bf16 = super::kernels::row_format(&y)?;
    if let Some(residual) = residual {
        holds(super::kernels::row_format(residual)? == y_bf16, "the residual has another type")?;
        holds(residual.size() == [rows, out as i64], "the residual has another shape")?;
    }
    let call = PanelCall {
        x: x.data_ptr(),
        rows,
        width: width as i64,
        padded: padded as i64,
        panels: panels.data_ptr().cast(),
        panel_bytes: panel_bytes as i64,
        scales: scales.map_or(std::ptr::null(), |scales| scales.data_ptr().cast_const().cast()),
        out: out as i64,
        residual: residual.map_or(std::ptr::null(), |residual| residual.data_ptr().cast_const()),
        y: y.data_ptr(),
        x_bf16,
        y_bf16,
        format: format as c_int,
        level: level as c_int,
        together: (rows as usize * width * out >= WORTH_A_THREAD).into(),
        terms: terms as c_int,
    };
    // SAFETY: dense tensors of the sizes checked above; `y` is new, so nothing else sees it; the level is one
    // that `best` gave or a lower one, and every lower one is there as well.
    unsafe { ll_panels(&raw const call) };
    Ok(y)
}

/// Rounds 16 rows `x [16, width]` to a panel of zeros, in `Int8` with their scales or in `Int4Min`. Pure.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn pack_panel(
    x: &[f32],
    format: PanelFormat,
    panel: &mut [u8],
    scales: &mut [f32],
) -> Result<(), TorchError> {
    let width = x.len() / PANEL_ROWS;
    let holds = |holds: bool, what: &str| super::kernels::check(holds, what);
    holds(width > 0 && width * PANEL_ROWS == x.len(), "rows of one width make a panel")?;
    holds(format != PanelFormat::Int4, "only stored blocks lack minima")?;
    holds(panel.len() == format.panel_bytes(width.next_multiple_of(GROUP)), "the panel has another size")?;
    holds(scales.len() == PANEL_ROWS, "a panel has 16 rows")?;
    // SAFETY: all of the sizes that the shim derives from `width` and `format`, checked above.
    unsafe {
        ll_pack_panel(x.as_ptr(), width as i64, format as c_int, panel.as_mut_ptr(), scales.as_mut_ptr());
    }
    Ok(())
}

fn is_dense(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.is_contiguous()
}

/// Sums of `width` products of an unsigned and a signed byte, at most 255 * 127 each, stay below 2^31.
pub(crate) const MAX_WIDTH: usize = 1 << 16;

/// Multiplications that take about as long as waking a second thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// As in `shim/panels.cc`.
#[repr(C)]
struct PanelCall {
    x: *const c_void,
    rows: i64,
    width: i64,
    padded: i64,
    panels: *const u8,
    panel_bytes: i64,
    scales: *const f32,
    out: i64,
    residual: *const c_void,
    y: *mut c_void,
    x_bf16: c_int,
    y_bf16: c_int,
    format: c_int,
    level: c_int,
    together: c_int,
    terms: c_int,
}

#[expect(unsafe_code, reason = "declares the shim")]
unsafe extern "C" {
    fn ll_panel_level() -> c_int;
    fn ll_panels(call: *const PanelCall);
    fn ll_pack_panel(x: *const f32, width: i64, format: c_int, panel: *mut u8, scales: *mut f32);
}
