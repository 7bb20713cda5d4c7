//! Medians and percentiles of a few samples.

/// The value below which a share `q` of the samples lies (nearest rank); NaN without samples.
pub(crate) fn percentile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// The middle sample.
pub(crate) fn median(samples: &[f64]) -> f64 {
    percentile(samples, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(
            (median(&samples), percentile(&samples, 0.99), percentile(&samples, 0.0)),
            (3.0, 5.0, 1.0)
        );
        assert!(median(&[]).is_nan());
    }
}
