//! Penalties and bias: what changes single logits before any of them is compared.

use crate::counts::TokenCounts;
use crate::parameters::Checked;

/// Applies penalties, then bias. Tokens of the history outside the vocabulary are ignored.
///
/// * Repetition penalty r, on tokens of prompt and output: `l / r` if `l > 0`, else `l * r` (Keskar et al.,
///   "CTRL", 2019).
/// * Frequency and presence penalty, on generated tokens: `l - count * frequency - presence` (as the usual
///   completion APIs define them).
/// * Bias: added; -100 removes the token whatever its logit.
///
/// `originals` is cleared and takes each changed token's logit from before.
pub(crate) fn adjust(logits: &mut [f32], params: &Checked, history: &TokenCounts, originals: &mut Originals) {
    originals.clear();
    let penalised =
        params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
    if penalised {
        for (token, count) in history.iter() {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let repeated = if *logit > 0.0 {
                *logit / params.repetition_penalty
            } else {
                *logit * params.repetition_penalty
            };
            originals.push((token, *logit));
            let mut new = repeated;
            if count.generated > 0 {
                new -= count.generated as f32 * params.frequency_penalty + params.presence_penalty;
            }
            set(logit, new);
        }
    }
    for &(token, bias) in &params.logit_bias {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        originals.push((token, *logit));
        if bias <= REMOVES {
            *logit = f32::NEG_INFINITY;
        } else {
            let new = *logit + bias;
            set(logit, new);
        }
    }
}

/// Tokens whose logit was changed, with the logit from before; of several entries the first counts.
pub(crate) type Originals = Vec<(u32, f32)>;

/// Huge logits times a penalty leave the range of `f32`: they stay at its end, and `-inf` stays.
fn set(logit: &mut f32, new: f32) {
    if *logit > f32::NEG_INFINITY {
        *logit = new.clamp(f32::MIN, f32::MAX);
    }
}

/// The bias that the usual APIs document as a ban.
const REMOVES: f32 = -100.0;
