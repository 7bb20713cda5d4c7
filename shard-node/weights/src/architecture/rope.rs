//! The rotary embedding in a model's metadata: its bases and how it is stretched.

use std::f64::consts::TAU;

use proto::manifest::RopeScaling;
use serde_json::{Map, Value};

use super::FieldError;
use super::from_gguf::GgufFields;
use super::from_hf::HfFields;
use crate::checkpoint::Checkpoint;
use crate::header::clip;

/// A rotary embedding.
#[derive(Debug)]
pub(super) struct Rope {
    pub(super) theta: f64,
    pub(super) scaling: Option<RopeScaling>,
    /// Base of the layers with a window, where the metadata give it one of its own.
    pub(super) local_theta: Option<f64>,
}

/// `rope_parameters`, or `rope_scaling` and `rope_theta` of older files. Newer ones have an object for each
/// type of layer, if there are several.
pub(super) fn from_hf(
    fields: &HfFields<'_>,
    context: u32,
    default_theta: f64,
    unsupported: &mut Vec<String>,
) -> Result<Rope, FieldError> {
    let stated = fields.object("rope_parameters").or_else(|| fields.object("rope_scaling"));
    let by_type = |name: &str| HfFields(stated?).object(name);
    let rope = by_type("full_attention").or(stated);
    let theta = |rope: Option<&Map<String, Value>>| rope.and_then(|rope| HfFields(rope).number("rope_theta"));
    let mut local_theta = None;
    if let Some(local) = by_type("sliding_attention") {
        local_theta = theta(Some(local));
        let kind = HfFields(local).text("rope_type");
        if let Some(kind) = kind.filter(|&kind| kind != "default") {
            unsupported.push(format!("rope_type {:?} on layers with a window", clip(kind)));
        }
    }
    let partial =
        |fields: &HfFields<'_>| fields.number("partial_rotary_factor").is_some_and(|part| part != 1.0);
    if partial(fields) || rope.is_some_and(|rope| partial(&HfFields(rope))) {
        unsupported.push("partial_rotary_factor".to_owned());
    }
    // `original_max_position_embeddings` beside the others counts more, as in `standardize_rope_params`.
    let original = fields.optional("original_max_position_embeddings")?;
    let scaling = match rope {
        Some(rope) => scaling_from_hf(&HfFields(rope), original, context, unsupported)?,
        None => None,
    };
    let theta = theta(rope).or_else(|| fields.number("rope_theta")).unwrap_or(default_theta);
    Ok(Rope { theta, scaling, local_theta })
}

/// `modeling_rope_utils.py` of transformers.
fn scaling_from_hf(
    rope: &HfFields<'_>,
    original: Option<u32>,
    context: u32,
    unsupported: &mut Vec<String>,
) -> Result<Option<RopeScaling>, FieldError> {
    let need =
        |name: &str| rope.number(name).ok_or_else(|| FieldError::new(name, "of rope_scaling is missing"));
    let original_context = match original {
        Some(original) => original,
        None => rope.optional("original_max_position_embeddings")?.unwrap_or(context),
    };
    match rope.text("rope_type").or_else(|| rope.text("type")) {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: need("factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context,
        })),
        Some("yarn") => {
            let factor =
                rope.number("factor").unwrap_or_else(|| f64::from(context) / f64::from(original_context));
            let set = |name: &str| rope.number(name).filter(|&number| number != 0.0);
            let attention_factor =
                match (rope.number("attention_factor"), set("mscale"), set("mscale_all_dim")) {
                    (Some(attention_factor), ..) => attention_factor,
                    (None, Some(mscale), Some(all)) => amplitude(factor, mscale) / amplitude(factor, all),
                    _ => amplitude(factor, 1.0),
                };
            Ok(Some(RopeScaling::Yarn {
                factor,
                beta_fast: set("beta_fast").unwrap_or(BETA_FAST),
                beta_slow: set("beta_slow").unwrap_or(BETA_SLOW),
                attention_factor,
                truncate: rope.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                original_context,
            }))
        }
        Some(other) => {
            unsupported.push(format!("rope_scaling {:?}", clip(other)));
            Ok(None)
        }
    }
}

/// Turns of a frequency between which YaRN stretches it in part; the paper's, as everywhere.
const BETA_FAST: f64 = 32.0;
const BETA_SLOW: f64 = 1.0;

/// YaRN's factor of cosines and sines (section 3.4 of <https://arxiv.org/abs/2309.00071>), as transformers extends it.
fn amplitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// The stretch that a GGUF's metadata or its `rope_freqs.weight` name.
pub(super) fn from_gguf(
    fields: &GgufFields<'_>,
    checkpoint: &Checkpoint,
    head_dim: u32,
    (theta, context): (f64, u32),
    unsupported: &mut Vec<String>,
) -> Result<Option<RopeScaling>, FieldError> {
    if checkpoint.lists("rope_freqs.weight") {
        let scaling = llama3(checkpoint, head_dim, theta);
        if scaling.is_none() {
            unsupported.push("rope_freqs.weight that is not Llama 3's".to_owned());
        }
        return Ok(scaling);
    }
    let factor = fields.number("rope.scaling.factor");
    match (fields.text("rope.scaling.type"), factor) {
        // The key of files from before there were types.
        (None, _) => Ok(fields
            .number("rope.scale_linear")
            .filter(|&factor| factor != 1.0)
            .map(|factor| RopeScaling::Linear { factor })),
        (Some("none"), _) => Ok(None),
        (Some("linear"), Some(factor)) => Ok(Some(RopeScaling::Linear { factor })),
        (Some("yarn"), Some(factor)) => yarn_from_gguf(fields, factor, context, unsupported).map(Some),
        (Some(kind @ ("linear" | "yarn")), None) => {
            unsupported.push(format!("{kind} rope scaling without a factor"));
            Ok(None)
        }
        (Some(other), _) => {
            unsupported.push(format!("rope scaling {:?}", clip(other)));
            Ok(None)
        }
    }
}

/// The numbers that llama.cpp's converter copies from `config.json` (`set_gguf_parameters`), so
/// `yarn_attn_factor` means what `attention_factor` means there. `attn_factor` is a factor of its own.
fn yarn_from_gguf(
    fields: &GgufFields<'_>,
    factor: f64,
    context: u32,
    unsupported: &mut Vec<String>,
) -> Result<RopeScaling, FieldError> {
    let number = |name: &str| fields.number(&format!("rope.scaling.{name}"));
    for (key, plain) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
        if number(key).is_some_and(|number| number != plain) {
            unsupported.push(format!("rope.scaling.{key}"));
        }
    }
    let own = number("yarn_attn_factor").unwrap_or_else(|| amplitude(factor, 1.0));
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: number("yarn_beta_fast").unwrap_or(BETA_FAST),
        beta_slow: number("yarn_beta_slow").unwrap_or(BETA_SLOW),
        attention_factor: own * number("attn_factor").unwrap_or(1.0),
        truncate: true,
        original_context: fields.optional("rope.scaling.original_context_length")?.unwrap_or(context),
    })
}

/// A GGUF of Llama 3.1 or later holds the divisors of its frequencies, not the numbers they were made
/// from. All published ones use low factor 1, high factor 4 and original context 8192, and differ in the
/// factor, which is the largest divisor; the reading is kept only if it gives back every divisor.
fn llama3(checkpoint: &Checkpoint, head_dim: u32, theta: f64) -> Option<RopeScaling> {
    let divisors: Vec<f32> = checkpoint.values("rope_freqs.weight").ok()?;
    if divisors.len() != head_dim as usize / 2 {
        return None;
    }
    let factor = f64::from(divisors.iter().copied().fold(1.0_f32, f32::max));
    let (low, high, original) = (1.0, 4.0, 8192_u32);
    for (i, &divisor) in divisors.iter().enumerate() {
        let wavelength = TAU * theta.powf(2.0 * i as f64 / f64::from(head_dim));
        let turns = f64::from(original) / wavelength;
        let expected = if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let smooth = (turns - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        // Written as f32; written NaN or infinity fails here too.
        if (f64::from(divisor) - expected).abs() >= 1e-3 * expected || !divisor.is_finite() {
            return None;
        }
    }
    Some(RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_context: original,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, Value as GgufValue};

    fn yarn(keys: &[(&str, f64)]) -> (RopeScaling, Vec<String>) {
        let floats =
            keys.iter().map(|(key, value)| (format!("qwen2.rope.scaling.{key}"), GgufValue::Float(*value)));
        let mut gguf = Gguf { metadata: floats.collect(), tensors: Vec::new() };
        let original = "qwen2.rope.scaling.original_context_length".to_owned();
        gguf.metadata.insert(original, GgufValue::Unsigned(100));
        let fields = GgufFields { gguf: &gguf, architecture: "qwen2" };
        let mut unsupported = Vec::new();
        (yarn_from_gguf(&fields, 4.0, 400, &mut unsupported).unwrap(), unsupported)
    }

    #[test]
    fn yarn_keys_of_a_gguf_mean_what_the_converter_copied() {
        let plain = RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 0.1 * 4f64.ln() + 1.0,
            truncate: true,
            original_context: 100,
        };
        assert_eq!(yarn(&[("yarn_ext_factor", 1.0)]), (plain, vec![]));
        let given = [
            ("yarn_beta_fast", 8.0),
            ("yarn_beta_slow", 2.0),
            ("yarn_attn_factor", 0.5),
            ("attn_factor", 3.0),
        ];
        let (scaling, unsupported) = yarn(&given);
        assert!(unsupported.is_empty());
        let RopeScaling::Yarn { beta_fast, beta_slow, attention_factor, .. } = scaling else { panic!() };
        assert_eq!((beta_fast, beta_slow, attention_factor), (8.0, 2.0, 1.5));
        let (_, unsupported) = yarn(&[("yarn_ext_factor", 0.0), ("yarn_log_multiplier", 0.1)]);
        assert_eq!(unsupported, ["rope.scaling.yarn_ext_factor", "rope.scaling.yarn_log_multiplier"]);
    }
}
