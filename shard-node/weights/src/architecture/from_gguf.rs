//! GGUF metadata as an [`Architecture`]: what all families have in common. Keys as in
//! `gguf-py/gguf/constants.py` of llama.cpp; the rest is each family's ([`families`](super::families)).

use proto::manifest::Architecture;

use super::families::Family;
use super::{FieldError, Reading, rope};
use crate::checkpoint::Checkpoint;
use crate::gguf::{Array, Gguf, Value};
use crate::header::clip;

pub(super) fn read(gguf: &Gguf, checkpoint: &Checkpoint) -> Result<Reading, FieldError> {
    let mut unsupported = Vec::new();
    let name = gguf
        .string("general.architecture")
        .ok_or_else(|| FieldError::new("general.architecture", "is missing"))?;
    let family = Family::of_gguf(gguf);
    if family.is_none() {
        unsupported.push(format!("architecture {:?}", clip(name)));
    }
    let fields = GgufFields { gguf, architecture: name };
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
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if fields.number(cap).is_some_and(|cap| cap != 0.0) {
            unsupported.push(cap.to_owned());
        }
    }
    let rope_theta = fields.number("rope.freq_base").unwrap_or(10_000.0);
    let context = fields.required("context_length")?;
    let rope_scaling =
        rope::from_gguf(&fields, checkpoint, head_dim, (rope_theta, context), &mut unsupported)?;
    let vocab = match fields.optional("vocab_size")? {
        Some(vocab) => vocab,
        None => checkpoint
            .tensor("model.embed_tokens.weight")
            .ok()
            .and_then(|tensor| u32::try_from(tensor.rows()).ok())
            .ok_or_else(|| FieldError::new("vocab_size", "is missing, and so is token_embd.weight"))?,
    };
    let expects_experts = family.is_some_and(|family| family.experts.is_some());
    if !expects_experts && fields.optional("expert_count")?.is_some_and(|experts| experts > 0) {
        unsupported.push("experts".to_owned());
    }
    let architecture = Architecture {
        family: family.map_or_else(|| clip(name), |family| family.name.to_owned()),
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
        // Zero stands for the usual scale.
        query_scalar: fields
            .number("attention.scale")
            .filter(|&scale| scale != 0.0)
            .map(|scale| 1.0 / (scale * scale)),
        experts: None,
    };
    let mut reading = Reading { architecture, unsupported };
    let family = family.unwrap_or_else(|| Family::nearest(""));
    (family.read_gguf)(&fields, &mut reading)?;
    Ok(reading)
}

/// The metadata under an architecture's name.
#[derive(Debug)]
pub(super) struct GgufFields<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) architecture: &'a str,
}

impl<'a> GgufFields<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<u32>, FieldError> {
        let key = self.key(name);
        if !self.gguf.metadata.contains_key(&key) {
            return Ok(None);
        }
        let number = self.gguf.unsigned(&key).and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| FieldError::new(&clip(&key), "is not a 32-bit number"))
    }

    pub(super) fn required(&self, name: &str) -> Result<u32, FieldError> {
        self.optional(name)?.ok_or_else(|| FieldError::new(&clip(&self.key(name)), "is missing"))
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.gguf.float(&self.key(name))
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.gguf.string(&self.key(name))
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.gguf.boolean(&self.key(name))
    }

    /// An array of booleans.
    pub(super) fn flags(&self, name: &str) -> Option<Vec<bool>> {
        match self.gguf.metadata.get(&self.key(name)) {
            Some(Value::Array(Array::Bool(flags))) => Some(flags.clone()),
            _ => None,
        }
    }
}
