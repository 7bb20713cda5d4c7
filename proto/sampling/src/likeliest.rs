//! The most likely tokens of a row, for whoever wants to see what else might have been chosen.

use crate::sampler::SampleError;
use crate::scan;

/// The `count` most likely tokens under the logits as they are, the likeliest first and the lower of two equal ones
/// before the other, each with the natural logarithm of its probability. Impossible ones are left out. `[vocab_size]`
/// in, `count` at most out.
pub fn likeliest(logits: &[f32], count: usize) -> Result<Vec<(u32, f32)>, SampleError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let max = scan::finite_max(logits)?;
    let log_sum = scan::log_sum_exp(logits, max);
    // Sorted, the least likely last; few, so that an insertion moves next to nothing.
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    for (token, &logit) in logits.iter().enumerate() {
        if logit <= least {
            continue;
        }
        let place = best.partition_point(|&(_, other)| other >= logit);
        best.insert(place, (token as u32, logit));
        best.truncate(count);
        if best.len() == count {
            least = best[count - 1].1;
        }
    }
    let logprob = |logit: f32| (f64::from(logit) - f64::from(max) - log_sum) as f32;
    Ok(best.into_iter().map(|(token, logit)| (token, logprob(logit))).collect())
}

/// Natural logarithm of the sum of the exponentials of a row: a logit less this is the logarithm of its token's
/// probability under the logits as they are.
pub fn log_sum_exp(logits: &[f32]) -> Result<f32, SampleError> {
    let max = scan::finite_max(logits)?;
    Ok((f64::from(max) + scan::log_sum_exp(logits, max)) as f32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn probabilities_are_those_of_the_row() {
        let logits = [1.0f32.ln(), 4.0f32.ln(), f32::NEG_INFINITY, 3.0f32.ln(), 4.0f32.ln()];
        let told = likeliest(&logits, 9).unwrap();
        assert_eq!(told.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [1, 4, 3, 0]);
        for ((_, logprob), part) in told.iter().zip([4.0f32, 4.0, 3.0, 1.0]) {
            assert!((logprob.exp() - part / 12.0).abs() < 1e-6);
        }
        assert!((log_sum_exp(&logits).unwrap() - 12.0f32.ln()).abs() < 1e-6);
        assert!(log_sum_exp(&[f32::NAN]).is_err() && log_sum_exp(&[]).is_err());
        assert!(likeliest(&logits, 0).unwrap().is_empty());
        assert!(likeliest(&[f32::NAN], 1).is_err() && likeliest(&[f32::NEG_INFINITY], 1).is_err());
    }

    proptest! {
        #[test]
        fn they_are_the_first_of_all_sorted(
            logits in prop::collection::vec((-4i8..4).prop_map(f32::from), 1..200), count in 1usize..30,
        ) {
            let told: Vec<u32> = likeliest(&logits, count).unwrap().iter().map(|&(token, _)| token).collect();
            let mut all: Vec<u32> = (0..logits.len() as u32).collect();
            all.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
            all.truncate(count);
            prop_assert_eq!(told, all);
        }
    }
}
