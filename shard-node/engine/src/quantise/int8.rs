//! One scale for a row, symmetric: `value = scale * q`, `q` from -127 to 127, stored as `q + 128`.

use crate::ffi::PANEL_ROWS;

/// Writes a row into its lane of a panel; gives its scale. Columns beyond the row stay as they are:
/// what multiplies them is zero.
pub(crate) fn pack(values: &[f32], panel: &mut [u8], lane: usize) -> f32 {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    for (four, values) in panel.chunks_exact_mut(4 * PANEL_ROWS).zip(values.chunks(4)) {
        for (byte, value) in four[4 * lane..].iter_mut().zip(values) {
            // 1.5 * 2^23: the sum is rounded to an integer, to nearest even, which its low bits then are.
            let rounded = (value * inverse).clamp(-127.0, 127.0) + 12_582_912.0;
            *byte = (rounded.to_bits() as u8).wrapping_add(128);
        }
    }
    if inverse == 0.0 { 0.0 } else { scale }
}

/// Reads a row's values out of its lane of a panel.
pub(crate) fn unpack(panel: &[u8], lane: usize, scale: f32, out: &mut [f32]) {
    for (four, out) in panel.chunks_exact(4 * PANEL_ROWS).zip(out.chunks_mut(4)) {
        for (out, byte) in out.iter_mut().zip(&four[4 * lane..]) {
            *out = (f32::from(*byte) - 128.0) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_half_a_step() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let mut panel = vec![0; 128 * PANEL_ROWS];
        let scale = pack(&values, &mut panel, 5);
        let mut back = vec![0.0; 100];
        unpack(&panel, 5, scale, &mut back);
        assert!((scale - 3.0 / 127.0).abs() < 1e-3, "{scale}");
        for (a, b) in values.iter().zip(&back) {
            assert!((a - b).abs() <= scale * 0.5001, "{a} {b}");
        }
    }

    #[test]
    fn a_row_of_zeros_stays_one() {
        let mut panel = vec![0; 32 * PANEL_ROWS];
        assert_eq!(pack(&[0.0; 32], &mut panel, 0), 0.0);
        let mut back = [1.0; 32];
        unpack(&panel, 0, 0.0, &mut back);
        assert_eq!(back, [0.0; 32]);
    }
}
