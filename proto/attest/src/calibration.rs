//! How far honest nodes are from one another: a content-addressed file that verdicts name.
//!
//! Compact JSON, fields in declaration order, spans by layers. Its BLAKE3 is its name; an audit is judged by a file whose
//! name was committed to before the audit's seed was known. Without one a verdict is "uncalibrated", never "pass". Bytes
//! that parse but are not what this version would write are refused.

use proto::tensor::NumericsClass;
use proto::{ContentHash, LayerSpan, ModelId};
use serde::{Deserialize, Serialize};

use crate::Digest;

/// Largest file.
pub const MAX_CALIBRATION_BYTES: usize = 1 << 20;

/// What a number is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// [`ChunkDelta::relative_l2`](crate::delta::ChunkDelta).
    RelativeL2,
    /// [`ChunkDelta::worst_row`](crate::delta::ChunkDelta).
    WorstRow,
    /// [`session_mean`](crate::delta::session_mean) of a session's chunks: for the sequential test, which needs values that
    /// do not resemble each other, as chunks of one session do.
    SessionMean,
}

/// Honest deltas of a model in one class.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Of this format: 1.
    pub version: u32,
    /// The weights.
    pub model: ModelId,
    /// How they were computed.
    pub class: NumericsClass,
    /// The program that measured.
    pub exec_build: Digest,
    /// A hash of the list of prompts: those of a report must be others.
    pub prompts: ContentHash,
    /// What the committing and the recomputing side ran on, in words.
    pub devices: Vec<DevicePair>,
    /// By span.
    pub spans: Vec<SpanCalibration>,
}

/// Two kinds of device that were compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePair {
    /// Of the node that commits.
    pub node: String,
    /// Of the auditor.
    pub auditor: String,
}

/// Honest deltas of one span: how many layers a hop has changes them by factors, and so do its first ones.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpanCalibration {
    /// First layer.
    pub start: u32,
    /// One past the last layer.
    pub end: u32,
    /// One for each statistic, in order.
    pub statistics: Vec<Honest>,
}

/// Honest values of one statistic.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Honest {
    /// Of what.
    pub statistic: Statistic,
    /// Chunks measured.
    pub chunks: u64,
    /// Half of them lie below.
    pub p50: f64,
    /// 9 of 10.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// All.
    pub max: f64,
    /// Mean of the natural logarithms of those that are not 0, for the sequential test.
    pub ln_mean: f64,
    /// Their standard deviation.
    pub ln_deviation: f64,
}

/// What one number says by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Judged {
    /// Honest nodes are as far.
    Pass,
    /// Further than any honest one was, but not by much: look layer by layer, or at more chunks.
    Borderline,
    /// Further than honest ones by [`FAIL_FACTOR`].
    Fail,
}

/// Why bytes are no calibration.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// Over [`MAX_CALIBRATION_BYTES`].
    #[error("calibration of {0} bytes is over {MAX_CALIBRATION_BYTES}")]
    TooLong(usize),
    /// Not JSON of this form.
    #[error("calibration does not parse: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A field makes no sense.
    #[error("invalid {0}")]
    Field(&'static str),
    /// Parses, but is not what is written: two files would say the same under two names.
    #[error("calibration is not in its canonical form")]
    NotCanonical,
    /// The bytes have another name than asked for.
    #[error("calibration is {got}, not {expected}")]
    Hash {
        /// Asked for.
        expected: ContentHash,
        /// Of the bytes.
        got: ContentHash,
    },
}

impl Calibration {
    /// The file's bytes. Fails if a field makes no sense.
    pub fn encode(&self) -> Result<Vec<u8>, CalibrationError> {
        self.check()?;
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads a file with this name.
    pub fn decode(bytes: &[u8], expected: ContentHash) -> Result<Self, CalibrationError> {
        if bytes.len() > MAX_CALIBRATION_BYTES {
            return Err(CalibrationError::TooLong(bytes.len()));
        }
        let got = ContentHash::of(bytes);
        if got != expected {
            return Err(CalibrationError::Hash { expected, got });
        }
        let calibration: Self = serde_json::from_slice(bytes)?;
        if calibration.encode()? == bytes { Ok(calibration) } else { Err(CalibrationError::NotCanonical) }
    }

    /// Honest values for a span. Only that very span: another one of the same length has other weights.
    pub fn span(&self, span: LayerSpan) -> Option<&SpanCalibration> {
        self.spans.iter().find(|known| (known.start, known.end) == (span.start(), span.end()))
    }

    fn check(&self) -> Result<(), CalibrationError> {
        let field = |name| Err(CalibrationError::Field(name));
        if self.version != 1 {
            return field("version");
        }
        let label = |text: &String| {
            !text.is_empty() && text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control)
        };
        if !self.devices.iter().all(|pair| label(&pair.node) && label(&pair.auditor))
            || !self.devices.is_sorted_by(|a, b| a < b)
        {
            return field("devices");
        }
        let spans: Vec<_> = self.spans.iter().map(|span| LayerSpan::new(span.start, span.end)).collect();
        if spans.iter().any(Result::is_err)
            || !self.spans.is_sorted_by(|a, b| (a.start, a.end) < (b.start, b.end))
        {
            return field("spans");
        }
        let statistics = self.spans.iter().map(|span| &span.statistics);
        for list in statistics {
            if !list.is_sorted_by(|a, b| a.statistic < b.statistic) || !list.iter().all(Honest::is_sane) {
                return field("statistics");
            }
        }
        Ok(())
    }
}

impl SpanCalibration {
    /// Honest values of one statistic.
    pub fn honest(&self, statistic: Statistic) -> Option<&Honest> {
        self.statistics.iter().find(|honest| honest.statistic == statistic)
    }
}

impl Honest {
    /// From values of honest chunks, at least one, all finite.
    pub fn of(statistic: Statistic, values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        // The smallest value with at least this share at or below it.
        let quantile = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted[rank.clamp(1, sorted.len()) - 1]
        };
        // Where both sides computed alike, bit for bit, there is nothing to compare: 0 has no logarithm.
        let off = values.iter().filter(|&&value| value > SMALLEST);
        let mut logarithms: Vec<f64> = off.map(|value| value.ln()).collect();
        if logarithms.is_empty() {
            logarithms.push(SMALLEST.ln());
        }
        let count = logarithms.len() as f64;
        let ln_mean = logarithms.iter().sum::<f64>() / count;
        let spread = logarithms.iter().map(|value| (value - ln_mean).powi(2)).sum::<f64>();
        let honest = Self {
            statistic,
            chunks: values.len() as u64,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max,
            ln_mean,
            ln_deviation: (spread / count).sqrt(),
        };
        honest.is_sane().then_some(honest)
    }

    /// What one value says by itself. NaN is no honest value.
    pub fn judge(&self, value: f64) -> Judged {
        if value <= self.max * PASS_FACTOR {
            Judged::Pass
        } else if value <= self.max * FAIL_FACTOR {
            Judged::Borderline
        } else {
            Judged::Fail
        }
    }

    fn is_sane(&self) -> bool {
        let ordered = [0.0, self.p50, self.p90, self.p99, self.p999, self.max];
        self.chunks > 0
            && ordered.is_sorted()
            && self.max.is_finite()
            && self.ln_mean.is_finite()
            && self.ln_deviation.is_finite()
            && self.ln_deviation >= 0.0
    }
}

/// Over the largest honest value of a finite sample the next honest one may lie by a little: of 1,000 chunks the next
/// exceeds the largest once in 1,000, but hardly by a quarter.
pub const PASS_FACTOR: f64 = 1.25;

/// Twice the largest honest value: coarse cheats (skipped layers, 4-bit or fp8 weights) measured x4.6 and more; finer
/// ones are for the sequential test.
pub const FAIL_FACTOR: f64 = 2.0;

/// Exact classes differ by nothing, which has no logarithm.
pub(crate) const SMALLEST: f64 = 1e-12;

const MAX_LABEL_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn example() -> Calibration {
        let values: Vec<f64> = (1..=2_000).map(|index| 0.004 + 1e-6 * f64::from(index)).collect();
        let statistics = vec![
            Honest::of(Statistic::RelativeL2, &values).unwrap(),
            Honest::of(Statistic::WorstRow, &values).unwrap(),
        ];
        let span = |start, end| SpanCalibration { start, end, statistics: statistics.clone() };
        Calibration {
            version: 1,
            model: ModelId::from_bytes([1; 32]),
            class: NumericsClass::Bf16,
            exec_build: Digest::from_bytes([2; 32]),
            prompts: ContentHash::of(b"prompts"),
            devices: vec![DevicePair { node: "cpu avx512".into(), auditor: "cpu avx2".into() }],
            spans: vec![span(0, 10), span(10, 20)],
        }
    }

    #[test]
    fn a_calibration_is_found_by_its_hash() {
        let bytes = example().encode().unwrap();
        let hash = ContentHash::of(&bytes);
        assert_eq!(Calibration::decode(&bytes, hash).unwrap(), example());
        let other = ContentHash::of(b"other");
        assert!(matches!(Calibration::decode(&bytes, other), Err(CalibrationError::Hash { .. })));
        let spaced = [&bytes[..], b" "].concat();
        let error = Calibration::decode(&spaced, ContentHash::of(&spaced));
        assert!(matches!(error, Err(CalibrationError::NotCanonical)));
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let honest = example().spans[0].statistics[0];
        assert!((honest.p50 - 0.005).abs() < 1e-9 && (honest.max - 0.006).abs() < 1e-9);
        assert!((honest.p999 - 0.005_998).abs() < 1e-9);
        assert_eq!(honest.judge(0.0060), Judged::Pass);
        assert_eq!(honest.judge(0.0100), Judged::Borderline);
        assert_eq!(honest.judge(0.0121), Judged::Fail);
        assert_eq!(honest.judge(f64::NAN), Judged::Fail);
        assert_eq!(Honest::of(Statistic::RelativeL2, &[]), None);
        assert_eq!(Honest::of(Statistic::RelativeL2, &[f64::INFINITY]), None);
        assert_eq!(Honest::of(Statistic::RelativeL2, &[f64::NAN]), None);
    }

    #[test]
    fn only_the_very_span_is_calibrated() {
        let span = |start, end| LayerSpan::new(start, end).unwrap();
        assert!(example().span(span(0, 10)).is_some());
        assert!(example().span(span(5, 15)).is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        type Case = (fn(&mut Calibration), &'static str);
        let cases: [Case; 5] = [
            (|c| c.version = 2, "version"),
            (|c| c.devices[0].node = "\u{1b}".into(), "devices"),
            (|c| c.spans[0].start = 10, "spans"),
            (|c| c.spans.swap(0, 1), "spans"),
            (|c| c.spans[0].statistics[0].p50 = 1.0, "statistics"),
        ];
        for (spoil, field) in cases {
            let mut calibration = example();
            spoil(&mut calibration);
            let error = calibration.encode().unwrap_err().to_string();
            assert_eq!(error, format!("invalid {field}"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = example().encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = Calibration::decode(&bytes, ContentHash::of(&bytes)) {
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }
    }
}
