//! A scale and a minimum for each group of 32: `value = scale * q + minimum`, `q` from 0 to 15.
//!
//! GGUF's `Q4_0` and `Q4_1` blocks go into the panel as they are, nothing is rounded a second time. Other
//! values are rounded group by group in `shim/panels_pack.cc`: from the group's range, then twice the best line
//! through what each value was rounded to (least squares), keeping the attempt with the smallest squared error.
//! The tests say the same value by value.

use half::f16;

use super::FourBits;
use crate::ffi::{GROUP, PANEL_ROWS, PanelFormat};

/// Bytes of a group's nibbles in a panel.
const NIBBLE_BYTES: usize = PANEL_ROWS * GROUP / 2;

/// Writes a row of blocks into its lane of a panel.
pub(crate) fn pack_blocks(blocks: FourBits<'_>, panel: &mut [u8], lane: usize, format: PanelFormat) {
    let place = |index| Place { index, lane, format };
    match blocks {
        FourBits::Q4_0(blocks) => {
            for (index, [d0, d1, nibbles @ ..]) in blocks.iter().enumerate() {
                let scale = f16::from_le_bytes([*d0, *d1]);
                // Exact but for a scale above 8188, whose weights no model has.
                let minimum = f16::from_f32(-8.0 * scale.to_f32());
                place(index).write(panel, nibbles, [*d0, *d1], minimum.to_le_bytes());
            }
        }
        FourBits::Q4_1(blocks) => {
            for (index, [d0, d1, m0, m1, nibbles @ ..]) in blocks.iter().enumerate() {
                place(index).write(panel, nibbles, [*d0, *d1], [*m0, *m1]);
            }
        }
    }
}

/// Reads a row's values out of its lane of a panel.
pub(crate) fn unpack(panel: &[u8], lane: usize, format: PanelFormat, out: &mut [f32]) {
    for (index, out) in out.chunks_mut(GROUP).enumerate() {
        let (bytes, scale, minimum) = Place { index, lane, format }.read(panel);
        for (i, out) in out.iter_mut().enumerate() {
            let nibble = if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 };
            *out = scale * f32::from(nibble) + minimum;
        }
    }
}

/// Where a group of a row lies in a panel.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: usize,
    lane: usize,
    format: PanelFormat,
}

impl Place {
    /// Where the group's part of the panel begins.
    fn start(self) -> usize {
        self.index * self.format.group_bytes()
    }

    /// Where the row's scale is.
    fn scale(self) -> usize {
        self.start() + NIBBLE_BYTES + 2 * self.lane
    }

    /// Where its minimum is, if the format has them.
    fn minimum(self) -> Option<usize> {
        (self.format == PanelFormat::Int4Min).then_some(self.scale() + 2 * PANEL_ROWS)
    }

    fn write(self, panel: &mut [u8], nibbles: &[u8; 16], scale: [u8; 2], minimum: [u8; 2]) {
        for (four, nibbles) in nibbles.chunks_exact(4).enumerate() {
            let at = self.start() + 4 * (four * PANEL_ROWS + self.lane);
            panel[at..at + 4].copy_from_slice(nibbles);
        }
        panel[self.scale()..self.scale() + 2].copy_from_slice(&scale);
        if let Some(at) = self.minimum() {
            panel[at..at + 2].copy_from_slice(&minimum);
        }
    }

    fn read(self, panel: &[u8]) -> ([u8; 16], f32, f32) {
        let mut nibbles = [0; 16];
        for (four, nibbles) in nibbles.chunks_exact_mut(4).enumerate() {
            let at = self.start() + 4 * (four * PANEL_ROWS + self.lane);
            nibbles.copy_from_slice(&panel[at..at + 4]);
        }
        let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
        let scale = half(self.scale());
        (nibbles, scale, self.minimum().map_or(-8.0 * scale, half))
    }
}

#[cfg(test)]
mod tests;
