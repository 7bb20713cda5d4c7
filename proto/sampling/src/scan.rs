//! Passes over a whole row of logits, written so that the compiler turns them into SIMD.

use crate::portable_math::{LANES, exp_f32, ln_f64};
use crate::sampler::SampleError;

/// The largest logits of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Top {
    /// The largest logit, finite.
    pub(crate) logit: f32,
    /// The lowest token that has it.
    pub(crate) token: u32,
    /// The second largest logit (equal to the largest when two tokens share it), `-inf` when there is none.
    pub(crate) second: f32,
}

/// The largest logit of a row; refuses NaN and `+inf`. `-inf` means "impossible" and is let through, unless no
/// token is possible.
pub(crate) fn finite_max(logits: &[f32]) -> Result<f32, SampleError> {
    let bad = |l: f32| l.is_nan() || l == f32::INFINITY;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut found = [0u32; LANES];
    let (blocks, rest) = logits.as_chunks::<LANES>();
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..rest.len()].copy_from_slice(rest);
    for block in blocks.iter().chain([&last]) {
        for i in 0..LANES {
            let l = block[i];
            max[i] = if l > max[i] { l } else { max[i] };
            found[i] |= u32::from(bad(l));
        }
    }
    if found != [0; LANES] {
        let token = logits.iter().position(|&l| bad(l)).unwrap_or_default();
        return Err(SampleError::NotFinite { token: token as u32, logit: logits[token] });
    }
    let max = max.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    if max == f32::NEG_INFINITY { Err(SampleError::NothingLeft) } else { Ok(max) }
}

/// The two largest logits; fails when all are `-inf`.
pub(crate) fn top_two(logits: &[f32]) -> Result<Top, SampleError> {
    let mut first = [f32::NEG_INFINITY; LANES];
    let mut second = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = logits.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            rank(block[i], &mut first[i], &mut second[i]);
        }
    }
    for (i, &l) in rest.iter().enumerate() {
        rank(l, &mut first[i], &mut second[i]);
    }
    let (mut top, mut runner_up) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for i in 0..LANES {
        rank(first[i], &mut top, &mut runner_up);
        rank(second[i], &mut top, &mut runner_up);
    }
    if top == f32::NEG_INFINITY {
        return Err(SampleError::NothingLeft);
    }
    Ok(Top { logit: top, token: first_equal(logits, top), second: runner_up })
}

/// `ln(sum(e^(l - max)))`, with block sums in `f64` so that the error does not grow with the vocabulary.
pub(crate) fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    for block in logits.chunks(LANES * 32) {
        let mut sums = [0.0f32; LANES];
        let (blocks, rest) = block.as_chunks::<LANES>();
        for chunk in blocks {
            for i in 0..LANES {
                sums[i] += exp_f32(chunk[i] - max);
            }
        }
        for (i, &l) in rest.iter().enumerate() {
            sums[i] += exp_f32(l - max);
        }
        total += sums.iter().map(|&s| f64::from(s)).sum::<f64>();
    }
    ln_f64(total)
}

/// Whether any logit reaches `value`. Looks at all of them: without an early end it becomes SIMD.
#[inline]
pub(crate) fn any_at_least(logits: &[f32], value: f32) -> bool {
    let mut any = 0u32;
    for &l in logits {
        any |= u32::from(l >= value);
    }
    any != 0
}

#[inline]
fn rank(value: f32, first: &mut f32, second: &mut f32) {
    let loser = if value < *first { value } else { *first };
    *second = if loser > *second { loser } else { *second };
    *first = if value > *first { value } else { *first };
}

/// The lowest token with the largest logit.
fn first_equal(logits: &[f32], value: f32) -> u32 {
    const BLOCK: usize = LANES * 4;
    for (block, chunk) in logits.chunks(BLOCK).enumerate() {
        if any_at_least(chunk, value) {
            let at = chunk.iter().position(|&l| l == value).unwrap_or_default();
            return (block * BLOCK + at) as u32;
        }
    }
    0
}
