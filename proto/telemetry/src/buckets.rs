//! Bucket sets for histograms: few, shared, each with its reason, so that panels can compare them.
//!
//! Bounds are in base units (seconds, bytes, rows). A set does not grow for one metric; add a new one.

/// Latencies of anything between a hop on loopback and a whole request, in seconds.
///
/// From 50 us (an 8 KiB echo on loopback takes 68 us) to 60 s (longer is a failed request). 150 us is a
/// bound of its own because it is the target for the gap between two stages on one machine, 1 s because
/// it is the idle timeout of session connections. Otherwise 1, 2.5, 5 per decade.
pub const SECONDS: &[f64] = &[
    50e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];

/// Compute time of one step, in seconds.
///
/// Steps differ by tens of percent, not by decades, so the bounds grow by about 1.5 between 200 us (one
/// small layer) and 5 s (a prefill chunk of a big span on a slow CPU).
pub const STEP_SECONDS: &[f64] = &[
    200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 10e-3, 15e-3, 20e-3, 30e-3,
    50e-3, 75e-3, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0,
];

/// Sizes of frames and transfers, in bytes.
///
/// By 4 from 64 B (a control frame) over 2 KiB (one bf16 row of a small model) and 2 MiB (a prefill chunk)
/// to 64 MiB (nothing sent as one frame is larger).
pub const BYTES: &[f64] = &[
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Rows of a step or tokens of a chunk: powers of two up to the largest prefill chunk.
pub const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise_strictly_and_are_finite() {
        for set in [SECONDS, STEP_SECONDS, BYTES, ROWS] {
            assert!(set.iter().all(|bound| bound.is_finite() && *bound > 0.0));
            assert!(set.windows(2).all(|pair| pair[0] < pair[1]), "{set:?}");
        }
    }

    #[test]
    fn seconds_span_fifty_microseconds_to_a_minute() {
        assert_eq!((SECONDS[0], SECONDS[SECONDS.len() - 1]), (50e-6, 60.0));
    }
}
