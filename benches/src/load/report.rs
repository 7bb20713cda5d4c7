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
    /// Of requests with ids.
    pub(crate) refusal: Vec<f64>,
    /// Of requests with text.
    pub(crate) text_refusal: Vec<f64>,
    pub(crate) tokens: usize,
    pub(crate) done: usize,
    pub(crate) done_by_tenant: BTreeMap<String, usize>,
    /// Problems before the first token, by code.
    pub(crate) refused: BTreeMap<String, usize>,
    /// Problems after the first token, by code.
    pub(crate) broken_off: BTreeMap<String, usize>,
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
            let done = samples.done_by_tenant.entry(told.tenant.clone()).or_default();
            match &told.end {
                Ending::Done => {
                    samples.done += 1;
                    *done += 1;
                }
                Ending::Problem { code, .. } if !told.tokens.is_empty() => {
                    *samples.broken_off.entry(code.clone()).or_default() += 1;
                }
                Ending::Problem { code, after, hint } => {
                    *samples.refused.entry(code.clone()).or_default() += 1;
                    samples.without_hint += usize::from(!hint);
                    let refusals = if told.text { &mut samples.text_refusal } else { &mut samples.refusal };
                    // Who waited in the queue was not refused at once, and was not meant to be.
                    if !WAITED.contains(&code.as_str()) {
                        refusals.push(millis(*after));
                    }
                }
                Ending::Broken(why) => samples.broken.push(why.clone()),
            }
        }
        samples.seconds =
            last.saturating_sub(all.first().map_or(Duration::ZERO, |first| first.sent)).as_secs_f64();
        samples
    }

    /// What should not have happened: broken streams, problems after a first token, and those before it unless a
    /// request may be `refused` with that code.
    pub(crate) fn faults(&self, refusals: &[&str]) -> Vec<String> {
        let refused = self.refused.iter().filter(|(code, _)| !refusals.contains(&code.as_str()));
        let refused = refused.map(|(code, count)| format!("{count} refused with {code}"));
        let broken_off = self.broken_off.iter();
        let broken_off = broken_off.map(|(code, count)| format!("{count} broken off with {code}"));
        let broken = self.broken.iter().map(|why| format!("broken: {why}"));
        let nothing = (self.done == 0).then(|| "no answer was whole".to_owned());
        refused.chain(broken_off).chain(broken).chain(nothing).collect()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "done": self.done,
            "done_by_tenant": self.done_by_tenant,
            "refused": self.refused,
            "broken_off": self.broken_off,
            "broken": self.broken.len(),
            "broken_first": self.broken.first(),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens as f64 / self.seconds,
            "requests_per_second": self.done as f64 / self.seconds,
            "ttft_ms": percentiles(&self.ttft),
            "itl_ms": percentiles(&self.itl),
            "refusal_ms": percentiles(&self.refusal),
            "text_refusal_ms": percentiles(&self.text_refusal),
            "refusals_without_hint": self.without_hint,
        })
    }
}

/// Codes that tell a request that there is no place for it.
pub(crate) const NO_PLACE: [&str; 3] = ["queue_full", WAITED[0], WAITED[1]];
/// Those that come after some time in the queue.
const WAITED: [&str; 2] = ["queue_timeout", "displaced"];

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
        let answered = told(100, false, Ending::Done, &[150, 160, 190]);
        let refused = [false, true].map(|text| told(120, text, problem("queue_full", 3), &[]));
        let samples = Samples::of(&[&[answered], &refused[..]].concat());
        assert_eq!((&samples.ttft[..], &samples.itl[..]), (&[50.0][..], &[10.0, 30.0][..]));
        assert_eq!((&samples.refusal[..], &samples.text_refusal[..]), (&[3.0][..], &[3.0][..]));
        assert_eq!((samples.done, samples.refused["queue_full"], samples.without_hint), (1, 2, 0));
        assert_eq!(samples.done_by_tenant["a"], 1);
        assert_eq!(samples.faults(&NO_PLACE), [""; 0]);
        assert_eq!(samples.faults(&[]), ["2 refused with queue_full"]);
    }

    #[test]
    fn a_problem_is_a_fault_unless_it_is_a_refusal_for_want_of_a_place() {
        let done = told(100, false, Ending::Done, &[150]);
        for (end, tokens, fault) in [
            (problem("queue_full", 3), &[150][..], "1 broken off with queue_full"),
            (problem("nodes_failed", 3), &[], "1 refused with nodes_failed"),
            (Ending::Broken("lost".into()), &[], "broken: lost"),
        ] {
            let samples = Samples::of(&[done.clone(), told(100, true, end, tokens)]);
            assert_eq!(samples.faults(&NO_PLACE), [fault]);
        }
        assert_eq!(Samples::of(&[]).faults(&NO_PLACE), ["no answer was whole"]);
    }

    fn told(sent: u64, text: bool, end: Ending, tokens: &[u64]) -> Told {
        let ms = Duration::from_millis;
        let tokens = tokens.iter().copied().map(ms).collect();
        Told { sent: ms(sent), tenant: "a".into(), text, end, tokens }
    }

    fn problem(code: &str, after: u64) -> Ending {
        Ending::Problem { code: code.into(), after: Duration::from_millis(after), hint: true }
    }
}
