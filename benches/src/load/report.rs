//! What a run came to: percentiles, throughput, errors by code.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Ending, Told};
use crate::statistics::percentile;

/// The samples of a run, milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    pub(crate) ttft: Vec<f64>,
    pub(crate) itl: Vec<f64>,
    pub(crate) refusal: Vec<f64>,
    pub(crate) tokens: usize,
    pub(crate) done: usize,
    pub(crate) errors: BTreeMap<String, usize>,
    pub(crate) broken: Vec<String>,
    /// Refusals that can be tried again, but do not say when.
    pub(crate) without_hint: usize,
    /// From the first request to the last token, seconds.
    pub(crate) seconds: f64,
}

impl Samples {
    pub(crate) fn of(all: &[Told]) -> Self {
        let mut samples = Self::default();
        let mut last = Duration::ZERO;
        for told in all {
            samples.tokens += told.tokens.len();
            if let Some(first) = told.tokens.first() {
                samples.ttft.push(millis(first.saturating_sub(told.sent)));
            }
            samples.itl.extend(gaps(told));
            last = last.max(told.tokens.last().copied().unwrap_or(told.sent));
            match &told.end {
                Ending::Done => samples.done += 1,
                Ending::Problem { code, after, hint } => {
                    *samples.errors.entry(code.clone()).or_default() += 1;
                    if told.tokens.is_empty() {
                        samples.without_hint += usize::from(!hint);
                        // Who waited in the queue was not refused at once, and was not meant to be.
                        if code != "queue_timeout" {
                            samples.refusal.push(millis(*after));
                        }
                    }
                }
                Ending::Broken(why) => samples.broken.push(why.clone()),
            }
        }
        samples.seconds =
            last.saturating_sub(all.first().map_or(Duration::ZERO, |first| first.sent)).as_secs_f64();
        samples
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "done": self.done,
            "errors": self.errors,
            "broken": self.broken.len(),
            "broken_first": self.broken.first(),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens as f64 / self.seconds,
            "requests_per_second": self.done as f64 / self.seconds,
            "ttft_ms": percentiles(&self.ttft),
            "itl_ms": percentiles(&self.itl),
            "refusal_ms": percentiles(&self.refusal),
            "refusals_without_hint": self.without_hint,
        })
    }
}

/// Times between two tokens of an answer, milliseconds.
pub(crate) fn gaps(told: &Told) -> impl Iterator<Item = f64> + '_ {
    told.tokens.windows(2).map(|pair| millis(pair[1].saturating_sub(pair[0])))
}

pub(crate) fn percentiles(samples: &[f64]) -> Value {
    if samples.is_empty() {
        return Value::Null;
    }
    json!({
        "count": samples.len(),
        "p50": percentile(samples, 0.5),
        "p90": percentile(samples, 0.9),
        "p99": percentile(samples, 0.99),
        "max": percentile(samples, 1.0),
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_what_was_told() {
        let ms = Duration::from_millis;
        let answered = Told { sent: ms(100), end: Ending::Done, tokens: vec![ms(150), ms(160), ms(190)] };
        let refused = Told {
            sent: ms(120),
            end: Ending::Problem { code: "queue_full".into(), after: ms(3), hint: true },
            tokens: Vec::new(),
        };
        let samples = Samples::of(&[answered, refused]);
        assert_eq!((samples.ttft, samples.itl, samples.refusal), (vec![50.0], vec![10.0, 30.0], vec![3.0]));
        assert_eq!((samples.done, samples.errors["queue_full"], samples.without_hint), (1, 1, 0));
    }
}
