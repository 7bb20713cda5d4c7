//! How fast an answer came, from the times of its tokens.

use std::time::Duration;

use serde::Serialize;

/// The figures of one answer; `None` where there were too few tokens.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Timings {
    /// From the request to the first token, discovery not included, milliseconds.
    pub ttft_ms: Option<f64>,
    /// Median time between two tokens, milliseconds.
    pub itl_ms_p50: Option<f64>,
    /// 99th percentile of the time between two tokens, milliseconds.
    pub itl_ms_p99: Option<f64>,
    /// The longest time between two tokens, milliseconds: what its reader saw of a node's loss, if there was one.
    pub itl_ms_max: Option<f64>,
    /// Tokens after the first, by the time from the first to the last.
    pub decode_tokens_per_second: Option<f64>,
    /// Tokens of the prompt, by the time from sending it to the first token.
    pub prefill_tokens_per_second: Option<f64>,
}

impl Timings {
    /// `tokens` are the times at which tokens came, in order; all times count from the request.
    pub fn new(prompt_tokens: usize, prompt_sent: Option<Duration>, tokens: &[Duration]) -> Self {
        let (Some(&first), Some(&last)) = (tokens.first(), tokens.last()) else { return Self::default() };
        let mut gaps: Vec<Duration> = tokens.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        gaps.sort_unstable();
        let prefill = prompt_sent.map(|sent| first.saturating_sub(sent));
        Self {
            ttft_ms: Some(rounded(millis(first))),
            itl_ms_p50: percentile(&gaps, 50),
            itl_ms_p99: percentile(&gaps, 99),
            itl_ms_max: percentile(&gaps, 100),
            decode_tokens_per_second: rate(gaps.len(), last.saturating_sub(first)),
            prefill_tokens_per_second: prefill.and_then(|took| rate(prompt_tokens, took)),
        }
    }
}

/// Nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|&gap| rounded(millis(gap)))
}

fn rate(count: usize, took: Duration) -> Option<f64> {
    (count > 0 && !took.is_zero()).then(|| rounded(count as f64 / took.as_secs_f64()))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// To microseconds: more digits are noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_the_times() {
        let ms = Duration::from_millis;
        let tokens = [ms(300), ms(310), ms(320), ms(360)];
        let timings = Timings::new(20, Some(ms(100)), &tokens);
        assert_eq!(timings.ttft_ms, Some(300.0));
        assert_eq!((timings.itl_ms_p50, timings.itl_ms_p99), (Some(10.0), Some(40.0)));
        assert_eq!(timings.itl_ms_max, Some(40.0));
        assert_eq!(timings.decode_tokens_per_second, Some(50.0));
        assert_eq!(timings.prefill_tokens_per_second, Some(100.0));
        assert_eq!(Timings::new(3, None, &[]), Timings::default());
        assert_eq!(Timings::new(3, None, &[ms(5)]).decode_tokens_per_second, None);
    }
}
