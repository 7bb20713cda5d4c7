//! Rounding to 4 bits, value by value: what the shim's vectors must give.

use super::*;
use crate::ffi;

/// Attempts at a group, the first from its range.
const ATTEMPTS: usize = 3;

/// One group.
#[derive(Debug, Clone, Copy)]
struct Group {
    scale: f16,
    minimum: f16,
    nibbles: [u8; GROUP],
}

/// Writes a row of values into its lane of an [`PanelFormat::Int4Min`] panel.
fn pack(values: &[f32], panel: &mut [u8], lane: usize) {
    for (index, values) in values.chunks(GROUP).enumerate() {
        let group = rounded(values);
        let mut bytes = [0u8; GROUP / 2];
        for (byte, (low, high)) in bytes.iter_mut().zip(group.nibbles.iter().zip(&group.nibbles[16..])) {
            *byte = low | high << 4;
        }
        let place = Place { index, lane, format: PanelFormat::Int4Min };
        place.write(panel, &bytes, group.scale.to_le_bytes(), group.minimum.to_le_bytes());
    }
}

/// The best of a few attempts.
fn rounded(values: &[f32]) -> Group {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for &value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    let (mut scale, mut minimum) = ((high - low) / 15.0, low);
    let mut best = Group { scale: f16::ZERO, minimum: f16::ZERO, nibbles: [0; GROUP] };
    let mut least = f32::INFINITY;
    for _ in 0..ATTEMPTS {
        let group = attempt(values, scale, minimum);
        let error = squared_error(values, &group);
        if error < least {
            (best, least) = (group, error);
        }
        match line(values, &group.nibbles) {
            Some(next) => (scale, minimum) = next,
            None => break,
        }
    }
    best
}

/// Each value to its nearest step.
fn attempt(values: &[f32], scale: f32, minimum: f32) -> Group {
    let short = |value: f32| f16::from_f32(value.clamp(-65_504.0, 65_504.0));
    let (scale, minimum) = (short(scale), short(minimum));
    let (step, start) = (scale.to_f32(), minimum.to_f32());
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    let mut nibbles = [0; GROUP];
    for (nibble, value) in nibbles.iter_mut().zip(values) {
        // 2^23: the sum's low bits are the rounded number.
        let rounded = ((value - start) * inverse).clamp(0.0, 15.0) + 8_388_608.0;
        *nibble = rounded.to_bits() as u8 & 15;
    }
    Group { scale, minimum, nibbles }
}

fn squared_error(values: &[f32], group: &Group) -> f32 {
    let (scale, minimum) = (group.scale.to_f32(), group.minimum.to_f32());
    let errors = values.iter().zip(&group.nibbles).map(|(v, &q)| scale * f32::from(q) + minimum - v);
    errors.map(|error| error * error).sum()
}

/// Scale and minimum of the line nearest to the values at these steps; `None` if all steps are the same.
fn line(values: &[f32], nibbles: &[u8; GROUP]) -> Option<(f32, f32)> {
    let n = values.len() as f32;
    let (mut sum_q, mut sum_qq, mut sum_v, mut sum_qv) = (0.0, 0.0, 0.0, 0.0);
    for (&v, &q) in values.iter().zip(nibbles) {
        let q = f32::from(q);
        sum_q += q;
        sum_qq += q * q;
        sum_v += v;
        sum_qv += q * v;
    }
    let spread = n * sum_qq - sum_q * sum_q;
    if spread <= 0.0 {
        return None;
    }
    let scale = (n * sum_qv - sum_q * sum_v) / spread;
    Some((scale, (sum_v - scale * sum_q) / n))
}

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 1.7).sin() + 0.2 * (i as f32 * 0.3).cos()).collect()
}

fn round_trip(values: &[f32]) -> Vec<f32> {
    let padded = values.len().next_multiple_of(GROUP);
    let mut panel = vec![0; PanelFormat::Int4Min.panel_bytes(padded)];
    ffi::pack_panel(&values.repeat(PANEL_ROWS), PanelFormat::Int4Min, &mut panel, &mut [0.0; 16]).unwrap();
    let mut back = vec![0.0; values.len()];
    unpack(&panel, 3, PanelFormat::Int4Min, &mut back);
    back
}

/// Rows of every size of number, of equal values, of zeros and of what overflows sums.
fn rows(width: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(PANEL_ROWS * width);
    for row in 0..PANEL_ROWS {
        let scale = [1.0, 1e-3, 3e-6, 1e-8, 3e4, 1e30, 3e38, 1e-40][row % 8];
        let wave = wave(width + row).into_iter().skip(row);
        rows.extend(wave.enumerate().map(|(i, value)| match (row, i / 8 % 5) {
            (9, _) => 0.25,
            (10, _) | (11, 2) => 0.0,
            (12, 1) => -0.0,
            (13, i) => i as f32,
            _ => value * scale * (1.0 + 0.3 * (i as f32 * 0.9).sin()),
        }));
    }
    rows
}

#[test]
fn panels_have_the_bytes_of_values_rounded_one_by_one() {
    for width in [32, 64, 100, 7, 17, 2048] {
        let rows = rows(width);
        let len = PanelFormat::Int4Min.panel_bytes(width.next_multiple_of(GROUP));
        let mut expected = vec![0; len];
        for (lane, row) in rows.chunks_exact(width).enumerate() {
            pack(row, &mut expected, lane);
        }
        for level in [0, 3, 4] {
            let mut panel = vec![0; len];
            ffi::at_cpu_level(level, || {
                ffi::pack_panel(&rows, PanelFormat::Int4Min, &mut panel, &mut [0.0; 16]).unwrap();
            });
            assert_eq!(panel, expected, "{width} columns, level {level}");
        }
    }
}

#[test]
fn values_come_back_within_a_step_and_better_than_from_the_range_alone() {
    for n in [32, 96, 100, 7] {
        let values = wave(n);
        let back = round_trip(&values);
        for (group, back) in values.chunks(GROUP).zip(back.chunks(GROUP)) {
            let (low, high) =
                (group.iter().copied().fold(9.0, f32::min), group.iter().copied().fold(-9.0, f32::max));
            let step = (high - low) / 15.0;
            let error = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let plain = attempt(group, step, low);
            assert!(error(group, back) <= squared_error(group, &plain) + 1e-9);
            assert!(group.iter().zip(back).all(|(a, b)| (a - b).abs() < step), "{group:?} {back:?}");
        }
    }
}

#[test]
fn constant_groups_and_zeros_come_back() {
    assert_eq!(round_trip(&[0.0; 32]), [0.0; 32]);
    assert_eq!(round_trip(&[0.5; 40]), [0.5; 40]);
}

#[test]
fn blocks_come_back_as_ggml_dequantises_them() {
    let mut block = [0u8; 20];
    block[..2].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(-1.5).to_le_bytes());
    for (i, byte) in block[4..].iter_mut().enumerate() {
        *byte = (i as u8) | (15 - i as u8) << 4;
    }
    let mut panel = vec![0; PanelFormat::Int4Min.panel_bytes(32)];
    pack_blocks(FourBits::Q4_1(&[block]), &mut panel, 15, PanelFormat::Int4Min);
    let mut back = [0.0; 32];
    unpack(&panel, 15, PanelFormat::Int4Min, &mut back);
    for i in 0..16 {
        assert_eq!(back[i], 0.25 * i as f32 - 1.5);
        assert_eq!(back[16 + i], 0.25 * (15 - i) as f32 - 1.5);
    }
    let short: [u8; 18] = std::array::from_fn(|i| if i < 2 { block[i] } else { block[i + 2] });
    for format in [PanelFormat::Int4, PanelFormat::Int4Min] {
        let mut panel = vec![0; format.panel_bytes(32)];
        pack_blocks(FourBits::Q4_0(&[short]), &mut panel, 2, format);
        unpack(&panel, 2, format, &mut back);
        assert_eq!((back[3], back[16]), (0.25 * (3.0 - 8.0), 0.25 * 7.0), "{format:?}");
    }
}
