//! From recomputed rows to an outcome.

use crate::calibration::{Judged, SpanCalibration, Statistic};
use crate::delta::{ChunkDelta, DeltaError, chunk_deltas};
use crate::verdict::{Method, Outcome};

/// An outcome with the number behind it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Judgement {
    /// How it was judged.
    pub method: Method,
    /// What came of it.
    pub outcome: Outcome,
    /// The worst value: of a chunk, or the number of rows that differ.
    pub statistic: f64,
    /// What it was held against: the largest honest value, or 0.
    pub threshold: f64,
    /// Chunks, or rows.
    pub count: u32,
}

/// Judges rows of a span by their delta. All three are `[rows, hidden]`.
///
/// The worst value by its own honest maximum decides, over both statistics of all chunks. Without a calibration of this
/// very span the outcome is uncalibrated.
pub fn judge_rows(
    input: &[f32],
    committed: &[f32],
    recomputed: &[f32],
    hidden: usize,
    calibration: Option<&SpanCalibration>,
) -> Result<Judgement, DeltaError> {
    let chunks = match chunk_deltas(input, committed, recomputed, hidden) {
        Ok(chunks) => chunks,
        Err(DeltaError::NotFinite) => return Ok(Judgement::new(Outcome::Unjudged, 0.0, 0.0, 0)),
        Err(error) => return Err(error),
    };
    let count = chunks.len() as u32;
    let values = |read: fn(&ChunkDelta) -> f64| chunks.iter().map(read).fold(0.0, f64::max);
    let worst = [
        (Statistic::RelativeL2, values(|chunk| chunk.relative_l2)),
        (Statistic::WorstRow, values(|chunk| chunk.worst_row)),
    ];
    let honest = |statistic| calibration.and_then(|calibration| calibration.honest(statistic));
    // Chunks are what it is judged by; a calibration may lack the statistic of rows.
    let Some(by_chunk) = honest(Statistic::RelativeL2).filter(|_| count > 0) else {
        return Ok(Judgement::new(Outcome::Uncalibrated, worst[0].1, 0.0, count));
    };
    let judged = worst.into_iter().filter_map(|(statistic, value)| Some((honest(statistic)?, value)));
    let outcome = |judged| match judged {
        Judged::Pass => Outcome::Pass,
        Judged::Borderline => Outcome::Borderline,
        Judged::Fail => Outcome::Fail,
    };
    let severity = |judged: Judged| judged as u8;
    let (honest, value) =
        judged.max_by_key(|(honest, value)| severity(honest.judge(*value))).unwrap_or((by_chunk, worst[0].1));
    Ok(Judgement::new(outcome(honest.judge(value)), value, honest.max, count))
}

/// Judges rows of class `exact`: equal bytes, row by row.
pub fn judge_equality(
    committed: &[u8],
    recomputed: &[u8],
    row_bytes: usize,
) -> Result<Judgement, DeltaError> {
    let shape = |hidden| DeltaError::Shape {
        input: committed.len(),
        committed: committed.len(),
        recomputed: recomputed.len(),
        hidden,
    };
    if row_bytes == 0 || committed.len() != recomputed.len() || !committed.len().is_multiple_of(row_bytes) {
        return Err(shape(row_bytes));
    }
    let rows = committed.chunks_exact(row_bytes).zip(recomputed.chunks_exact(row_bytes));
    let different = rows.filter(|(a, b)| a != b).count();
    let outcome = if different == 0 { Outcome::Pass } else { Outcome::Fail };
    let count = (committed.len() / row_bytes) as u32;
    Ok(Judgement { method: Method::Equality, outcome, statistic: different as f64, threshold: 0.0, count })
}

impl Judgement {
    const fn new(outcome: Outcome, statistic: f64, threshold: f64, count: u32) -> Self {
        Self { method: Method::ChunkDelta, outcome, statistic, threshold, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Honest;

    fn calibration() -> SpanCalibration {
        let honest = |statistic, max| Honest::of(statistic, &[0.5 * max, max]).unwrap();
        let statistics = vec![honest(Statistic::RelativeL2, 0.01), honest(Statistic::WorstRow, 0.02)];
        SpanCalibration { start: 0, end: 10, statistics }
    }

    /// 64 rows that are off by `off`, of the delta, in the rows given.
    fn judge(off: f32, rows: std::ops::Range<usize>, calibration: Option<&SpanCalibration>) -> Judgement {
        const HIDDEN: usize = 8;
        let input = vec![100.0f32; 64 * HIDDEN];
        let recomputed = vec![101.0f32; 64 * HIDDEN];
        let mut committed = recomputed.clone();
        committed[rows.start * HIDDEN..rows.end * HIDDEN].iter_mut().for_each(|value| *value += off);
        judge_rows(&input, &committed, &recomputed, HIDDEN, calibration).unwrap()
    }

    #[test]
    fn outcomes_follow_the_worst_value() {
        let calibration = calibration();
        let outcome = |off, rows| judge(off, rows, Some(&calibration)).outcome;
        assert_eq!(outcome(0.0, 0..64), Outcome::Pass);
        assert_eq!(outcome(0.01, 0..64), Outcome::Pass);
        assert_eq!(outcome(0.015, 32..64), Outcome::Borderline);
        assert_eq!(outcome(0.03, 0..64), Outcome::Fail);
        // One row of 32: the chunk alone would pass.
        assert_eq!(outcome(0.045, 7..8), Outcome::Fail);
        assert_eq!(outcome(f32::NAN, 7..8), Outcome::Fail);
        let failed = judge(0.03, 0..64, Some(&calibration));
        assert!((failed.statistic - 0.03).abs() < 1e-4 && failed.count == 2);
        assert_eq!(failed.threshold, 0.01);
    }

    #[test]
    fn without_a_calibration_nothing_passes() {
        assert_eq!(judge(0.0, 0..64, None).outcome, Outcome::Uncalibrated);
        let empty = SpanCalibration { start: 0, end: 10, statistics: Vec::new() };
        assert_eq!(judge(0.0, 0..64, Some(&empty)).outcome, Outcome::Uncalibrated);
        let nothing = judge_rows(&[], &[], &[], 8, Some(&calibration())).unwrap();
        assert_eq!(nothing.outcome, Outcome::Uncalibrated);
    }

    #[test]
    fn exact_rows_are_equal_or_not() {
        assert_eq!(judge_equality(&[1, 2, 3, 4], &[1, 2, 3, 4], 2).unwrap().outcome, Outcome::Pass);
        let judged = judge_equality(&[1, 2, 3, 4], &[1, 2, 3, 5], 2).unwrap();
        assert_eq!((judged.outcome, judged.statistic, judged.count), (Outcome::Fail, 1.0, 2));
        assert!(judge_equality(&[1, 2, 3], &[1, 2, 3], 2).is_err());
    }
}
