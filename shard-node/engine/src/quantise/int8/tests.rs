//! Rounding to 8 bits, value by value: what the shim's vectors must give.

use super::*;
use crate::ffi::{self, PanelFormat};

/// Writes a row into its lane of a panel; gives its scale. Columns beyond the row stay as they are:
/// what multiplies them is zero.
fn pack(values: &[f32], panel: &mut [u8], lane: usize) -> f32 {
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

#[test]
fn panels_have_the_bytes_of_values_rounded_one_by_one() {
    for width in [32, 100, 7, 17, 2048] {
        let mut rows: Vec<f32> = (0..PANEL_ROWS * width)
            .map(|i| (i as f32 * 0.37).sin() * [1.0, 1e-6, 1e30, 1e-39][i / width % 4])
            .collect();
        rows[3 * width..4 * width].fill(0.0);
        let mut expected = vec![0; PANEL_ROWS * width.next_multiple_of(32)];
        let scales: Vec<f32> =
            rows.chunks_exact(width).enumerate().map(|(lane, row)| pack(row, &mut expected, lane)).collect();
        for level in [0, 3, 4] {
            let mut panel = vec![0; expected.len()];
            let mut found = [0.0; PANEL_ROWS];
            ffi::at_cpu_level(level, || {
                ffi::pack_panel(&rows, PanelFormat::Int8, &mut panel, &mut found).unwrap();
            });
            assert_eq!((&panel, &found[..]), (&expected, &scales[..]), "{width} columns, level {level}");
        }
    }
}
