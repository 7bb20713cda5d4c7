//! The samples of all rounds, and the tables made of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Measurement;
use super::contestants::{Contestant, TRANSFORMERS};
use super::memory::Memory;
use crate::statistics::median;

/// Seconds of every measurement, a sample a round, and the read limit beside each.
#[derive(Debug, Default)]
pub(super) struct Figures {
    samples: BTreeMap<(String, Measurement), Vec<Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    /// Measured just before, in bytes a second.
    read_limit: f64,
}

impl Figures {
    pub(super) fn add(&mut self, name: &str, measurement: Measurement, seconds: f64, read_limit: f64) {
        let samples = self.samples.entry((name.to_owned(), measurement)).or_default();
        samples.push(Sample { seconds, read_limit });
    }

    /// The median over all rounds of the best of a few passes.
    pub(super) fn read_limit(&self) -> f64 {
        let limits: Vec<f64> = self.samples.values().flatten().map(|sample| sample.read_limit).collect();
        median(&limits)
    }

    /// Tokens a second at the median.
    fn speed(&self, name: &str, measurement: Measurement) -> Option<f64> {
        let seconds: Vec<f64> = self.of(name, measurement)?.iter().map(|sample| sample.seconds).collect();
        Some(f64::from(measurement.tokens()) / median(&seconds))
    }

    /// How much faster than another: the median of the rounds' ratios.
    fn ratio(&self, name: &str, other: &str, measurement: Measurement) -> Option<f64> {
        let (ours, theirs) = (self.of(name, measurement)?, self.of(other, measurement)?);
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).map(|(ours, theirs)| theirs.seconds / ours.seconds).collect();
        Some(median(&ratios))
    }

    /// Share of the read limit that reading `bytes` in each step comes to: the median of the rounds' shares.
    fn share(&self, name: &str, measurement: Measurement, bytes: f64) -> Option<f64> {
        let samples = self.of(name, measurement)?;
        let shares: Vec<f64> =
            samples.iter().map(|sample| bytes / sample.seconds / sample.read_limit).collect();
        Some(median(&shares))
    }

    fn of(&self, name: &str, measurement: Measurement) -> Option<&[Sample]> {
        self.samples.get(&(name.to_owned(), measurement)).map(Vec::as_slice)
    }

    pub(super) fn to_json(&self, contestants: &[Contestant]) -> Value {
        let entries = self.samples.keys().map(|(name, measurement)| {
            let bytes = contestants
                .iter()
                .find(|contestant| contestant.name() == name)
                .and_then(Contestant::decode_bytes);
            let share = match measurement {
                Measurement::Decode(_) => bytes.and_then(|bytes| self.share(name, *measurement, bytes)),
                Measurement::Prefill { .. } => None,
            };
            json!({
                "name": name,
                "measurement": label(*measurement),
                "tokens_per_second": self.speed(name, *measurement),
                "share_of_read_limit": share,
                "ratio_to_bf16": self.ratio(name, "bf16", *measurement),
                "ratio_to_transformers": self.ratio(name, TRANSFORMERS, *measurement),
            })
        });
        entries.collect()
    }
}

/// Tokens a second, and how near a class comes to reading its weights at the memory's speed.
pub(super) fn speed(figures: &Figures, contestants: &[Contestant], measurements: &[Measurement]) -> String {
    let mut text = format!(
        "\nTokens/s, medians; in brackets the share of the read limit ({:.1} GB/s at the median) at batch 1\n\n",
        figures.read_limit() / 1e9
    );
    head(&mut text, measurements);
    for contestant in contestants {
        let _ = write!(text, "| {} |", contestant.name());
        for &measurement in measurements {
            let speed = figures.speed(contestant.name(), measurement);
            let share = match (measurement, contestant.decode_bytes()) {
                (Measurement::Decode(1), Some(bytes)) => figures.share(contestant.name(), measurement, bytes),
                _ => None,
            };
            let _ = match (speed, share) {
                (Some(speed), Some(share)) => write!(text, " {speed:.1} ({:.0} %) |", share * 100.0),
                (Some(speed), None) => write!(text, " {speed:.1} |"),
                (None, _) => write!(text, " |"),
            };
        }
        text.push('\n');
    }
    text
}

/// Each against bf16 and against `transformers`.
pub(super) fn ratios(figures: &Figures, contestants: &[Contestant], measurements: &[Measurement]) -> String {
    let mut text = "\nRatios, medians over the rounds\n\n".to_owned();
    head(&mut text, measurements);
    for other in ["bf16", TRANSFORMERS] {
        for contestant in contestants.iter().filter(|contestant| contestant.name() != other) {
            let ratio = |&measurement: &Measurement| figures.ratio(contestant.name(), other, measurement);
            let ratios: Vec<Option<f64>> = measurements.iter().map(ratio).collect();
            if ratios.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(text, "| {} / {other} |", contestant.name());
            for ratio in ratios {
                let _ = match ratio {
                    Some(ratio) => write!(text, " {ratio:.2} |"),
                    None => write!(text, " |"),
                };
            }
            text.push('\n');
        }
    }
    text
}

/// Memory and loading.
pub(super) fn memory(rows: &[Memory]) -> String {
    let mut text = "\n| class | load, GB/s of stored bytes | weights | KV | library | peak RSS after loading | peak RSS | \
                    peak / (1.1 weights + KV + library) |\n|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        let mb = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
        let _ = writeln!(
            text,
            "| {} | {:.2} | {} | {} | {} | {} | {} | {:.2} |",
            row.class,
            row.load_rate() / 1e9,
            mb(row.weights),
            mb(row.kv),
            mb(row.library),
            mb(row.peak_loaded),
            mb(row.peak),
            row.peak / row.budget()
        );
    }
    text
}

fn head(text: &mut String, measurements: &[Measurement]) {
    text.push_str("| |");
    for &measurement in measurements {
        let _ = write!(text, " {} |", label(measurement));
    }
    text.push_str("\n|---|");
    for _ in measurements {
        text.push_str("---|");
    }
    text.push('\n');
}

fn label(measurement: Measurement) -> String {
    match measurement {
        Measurement::Decode(1) => "decode".into(),
        Measurement::Decode(sessions) => format!("decode x{sessions}"),
        Measurement::Prefill { rows, .. } => format!("prefill {rows}"),
    }
}
