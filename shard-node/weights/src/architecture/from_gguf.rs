//! GGUF metadata as an [`Architecture`]. Keys as in `gguf-py/gguf/constants.py` of llama.cpp.

use std::f64::consts::TAU;

use proto::manifest::{Architecture, RopeScaling};

use super::{FieldError, Reading};
use crate::checkpoint::Checkpoint;
use crate::gguf::Gguf;
use crate::header::clip;

pub(super) fn read(gguf: &Gguf, checkpoint: &Checkpoint) -> Result<Reading, FieldError> {
    let mut unsupported = Vec::new();
    let family = gguf
        .string("general.architecture")
        .ok_or_else(|| FieldError::new("general.architecture", "is missing"))?;
    if family != "llama" {
        unsupported.push(format!("architecture {:?}", clip(family)));
    }
    let fields = Fields { gguf, family };
    let heads = fields.required("attention.head_count")?;
    let hidden = fields.required("embedding_length")?;
    let head_dim = match fields.optional("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(FieldError::new("attention.head_count", "does not divide the embedding length")),
    };
    for (key, what) in
        [("attention.value_length", "value heads"), ("rope.dimension_count", "a partial rotary")]
    {
        if let Some(length) = fields.optional(key)?.filter(|&length| length != head_dim) {
            unsupported.push(format!("{what} of {length} (heads have {head_dim})"));
        }
    }
    let rope_theta = fields.number("rope.freq_base").unwrap_or(10_000.0);
    let rope_scaling = rope_scaling(&fields, checkpoint, head_dim, rope_theta, &mut unsupported);
    let vocab = match fields.optional("vocab_size")? {
        Some(vocab) => vocab,
        None => checkpoint
            .tensor("model.embed_tokens.weight")
            .ok()
            .and_then(|tensor| u32::try_from(tensor.rows()).ok())
            .ok_or_else(|| FieldError::new("vocab_size", "is missing, and so is token_embd.weight"))?,
    };
    if fields.optional("expert_count")?.is_some_and(|experts| experts > 0) {
        unsupported.push("experts".to_owned());
    }
    let mut context = fields.required("context_length")?;
    if let Some(window) = fields.optional("attention.sliding_window")? {
        context = context.min(window);
    }
    let architecture = Architecture {
        family: clip(family),
        n_layers: fields.required("block_count")?,
        hidden,
        heads,
        kv_heads: fields.optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: fields.required("feed_forward_length")?,
        vocab,
        context,
        norm_eps: fields
            .number("attention.layer_norm_rms_epsilon")
            .ok_or_else(|| FieldError::new("attention.layer_norm_rms_epsilon", "is missing"))?,
        rope_theta,
        rope_scaling,
        tied_head: !checkpoint.lists("lm_head.weight"),
        window: None,
        local_rope_theta: None,
        query_scalar: None,
        experts: None,
    };
    Ok(Reading { architecture, unsupported })
}

fn rope_scaling(
    fields: &Fields<'_>,
    checkpoint: &Checkpoint,
    head_dim: u32,
    theta: f64,
    unsupported: &mut Vec<String>,
) -> Option<RopeScaling> {
    if checkpoint.lists("rope_freqs.weight") {
        let scaling = llama3_scaling(checkpoint, head_dim, theta);
        if scaling.is_none() {
            unsupported.push("rope_freqs.weight that is not Llama 3's".to_owned());
        }
        return scaling;
    }
    match fields.text("rope.scaling.type") {
        None | Some("none") => None,
        Some("linear") => {
            let factor = fields.number("rope.scaling.factor");
            if factor.is_none() {
                unsupported.push("linear rope scaling without a factor".to_owned());
            }
            factor.map(|factor| RopeScaling::Linear { factor })
        }
        Some(other) => {
            unsupported.push(format!("rope scaling {:?}", clip(other)));
            None
        }
    }
}

/// A GGUF of Llama 3.1 or later holds the divisors of its frequencies, not the numbers they were made
/// from. All published ones use low factor 1, high factor 4 and original context 8192, and differ in the
/// factor, which is the largest divisor; the reading is kept only if it gives back every divisor.
fn llama3_scaling(checkpoint: &Checkpoint, head_dim: u32, theta: f64) -> Option<RopeScaling> {
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

struct Fields<'a> {
    gguf: &'a Gguf,
    family: &'a str,
}

impl<'a> Fields<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family)
    }

    fn optional(&self, name: &str) -> Result<Option<u32>, FieldError> {
        let key = self.key(name);
        if !self.gguf.metadata.contains_key(&key) {
            return Ok(None);
        }
        let number = self.gguf.unsigned(&key).and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| FieldError::new(&clip(&key), "is not a 32-bit number"))
    }

    fn required(&self, name: &str) -> Result<u32, FieldError> {
        self.optional(name)?.ok_or_else(|| FieldError::new(&clip(&self.key(name)), "is missing"))
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.gguf.float(&self.key(name))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.gguf.string(&self.key(name))
    }
}
