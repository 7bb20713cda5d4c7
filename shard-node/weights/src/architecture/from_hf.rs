//! `config.json` of an HF directory as an [`Architecture`]: what all families have in common. The rest,
//! and the defaults, are each family's ([`families`](super::families)).

use proto::manifest::Architecture;
use serde_json::{Map, Value};

use super::families::Family;
use super::{FieldError, LayerTypes, Reading, quantised_checkpoint, rope};
use crate::header::clip;

/// What a configuration class of `transformers` assumes where `config.json` says nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct HfDefaults {
    pub(super) heads: Option<u32>,
    pub(super) kv_heads: Option<u32>,
    /// Otherwise the hidden width over the heads.
    pub(super) head_dim: Option<u32>,
    pub(super) vocab: Option<u32>,
    pub(super) context: Option<u32>,
    pub(super) rope_theta: f64,
    pub(super) tied_head: bool,
}

impl HfDefaults {
    /// Those of most classes, as far as published models leave them out.
    pub(super) const USUAL: Self = Self {
        heads: None,
        kv_heads: None,
        head_dim: None,
        vocab: None,
        context: None,
        rope_theta: 10_000.0,
        tied_head: false,
    };
}

pub(super) fn read(config: &Map<String, Value>) -> Result<Reading, FieldError> {
    let mut unsupported = Vec::new();
    let model_type = HfFields(config).text("model_type").unwrap_or_default();
    let family = Family::of_model_type(model_type);
    if family.is_none() {
        unsupported.push(format!("model_type {:?}", clip(model_type)));
    }
    let name = family.map_or_else(|| clip(model_type), |family| family.name.to_owned());
    let family = family.unwrap_or_else(|| Family::nearest(""));
    // A model with images has its decoder's numbers one level down.
    let whole = HfFields(config);
    let fields = HfFields(whole.object("text_config").unwrap_or(config));
    let defaults = family.defaults;

    let heads = fields.or_default("num_attention_heads", defaults.heads)?;
    let hidden = fields.required("hidden_size")?;
    let head_dim = match fields.optional("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(FieldError::new("num_attention_heads", "does not divide hidden_size")),
    };
    let context = fields.or_default("max_position_embeddings", defaults.context)?;
    let rope = rope::from_hf(&fields, context, defaults.rope_theta, &mut unsupported)?;
    let architecture = Architecture {
        family: name,
        n_layers: fields.required("num_hidden_layers")?,
        hidden,
        heads,
        kv_heads: fields.optional("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads),
        head_dim,
        ffn: fields.required("intermediate_size")?,
        vocab: fields.or_default("vocab_size", defaults.vocab)?,
        context,
        norm_eps: fields.number("rms_norm_eps").unwrap_or(1e-6),
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        tied_head: [&fields, &whole]
            .into_iter()
            .find_map(|fields| fields.get("tie_word_embeddings")?.as_bool())
            .unwrap_or(defaults.tied_head),
        window: None,
        local_rope_theta: rope.local_theta,
        query_scalar: None,
        experts: None,
    };
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(act) = fields.text(key).filter(|act| !family.activations.contains(act)) {
            unsupported.push(format!("{key} {:?}", clip(act)));
        }
    }
    if let Some(quantisation) = whole.object("quantization_config") {
        let method = HfFields(quantisation).text("quant_method").unwrap_or("unknown");
        unsupported.push(quantised_checkpoint(method));
    }
    let mut reading = Reading { architecture, unsupported };
    (family.read_hf)(&fields, &mut reading)?;
    Ok(reading)
}

/// The members of a JSON object, by kind.
#[derive(Debug)]
pub(super) struct HfFields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> HfFields<'a> {
    /// The value, unless absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<u32>, FieldError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| FieldError::new(name, "is not a 32-bit number"))
    }

    /// The default where the field is absent, nothing where it is null.
    pub(super) fn optional_unless_null(&self, name: &str, absent: u32) -> Result<Option<u32>, FieldError> {
        if self.0.contains_key(name) { self.optional(name) } else { Ok(Some(absent)) }
    }

    pub(super) fn required(&self, name: &str) -> Result<u32, FieldError> {
        self.or_default(name, None)
    }

    pub(super) fn or_default(&self, name: &str, default: Option<u32>) -> Result<u32, FieldError> {
        self.optional(name)?.or(default).ok_or_else(|| FieldError::new(name, "is missing"))
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.as_f64()
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    pub(super) fn object(&self, name: &str) -> Option<&'a Map<String, Value>> {
        self.get(name)?.as_object()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Names the biases that a configuration asks for.
    pub(super) fn refuse_biases(&self, reading: &mut Reading) {
        let set = ["attention_bias", "mlp_bias"].into_iter().filter(|flag| self.flag(flag));
        reading.unsupported.extend(set.map(str::to_owned));
    }

    /// `layer_types`; kinds that are neither `full_attention` nor `sliding_attention` are named.
    pub(super) fn layer_types(&self, unsupported: &mut Vec<String>) -> Option<LayerTypes> {
        let types = self.get("layer_types")?.as_array()?;
        let known = ["full_attention", "sliding_attention"];
        if let Some(other) =
            types.iter().find(|kind| !kind.as_str().is_some_and(|kind| known.contains(&kind)))
        {
            unsupported.push(format!("layer_types with {}", clip(&other.to_string())));
            return None;
        }
        if self.get("num_hidden_layers").and_then(Value::as_u64) != Some(types.len() as u64) {
            unsupported.push(format!("layer_types for {} layers", types.len()));
            return None;
        }
        Some(LayerTypes::from_sliding(types.iter().map(|kind| kind == known[1]).collect()))
    }
}
