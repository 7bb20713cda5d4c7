//! One scale for a row, symmetric: `value = scale * q`, `q` from -127 to 127, stored as `q + 128`.
//! Rows are rounded in `shim/panels_pack.cc`; the tests say the same value by value.

use crate::ffi::PANEL_ROWS;

/// Reads a row's values out of its lane of a panel.
pub(crate) fn unpack(panel: &[u8], lane: usize, scale: f32, out: &mut [f32]) {
    for (four, out) in panel.chunks_exact(4 * PANEL_ROWS).zip(out.chunks_mut(4)) {
        for (out, byte) in out.iter_mut().zip(&four[4 * lane..]) {
            *out = (f32::from(*byte) - 128.0) * scale;
        }
    }
}

#[cfg(test)]
mod tests;
