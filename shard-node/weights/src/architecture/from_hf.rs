//! `config.json` of an HF directory as an [`Architecture`]. Defaults are those of `transformers`'
//! `LlamaConfig` and `MistralConfig`.

use proto::manifest::{Architecture, RopeScaling};
use serde_json::{Map, Value};

use super::{FieldError, Reading};
use crate::header::clip;

pub(super) fn read(config: &Map<String, Value>) -> Result<Reading, FieldError> {
    let fields = Fields(config);
    let mut unsupported = Vec::new();
    let family = fields.text("model_type").unwrap_or_default();
    if !matches!(family, "llama" | "mistral") {
        unsupported.push(format!("model_type {:?}", clip(family)));
    }
    let heads = fields.required("num_attention_heads")?;
    let hidden = fields.required("hidden_size")?;
    let head_dim = match fields.optional("head_dim")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(FieldError::new("num_attention_heads", "does not divide hidden_size")),
    };
    let mut context = fields.required("max_position_embeddings")?;
    // Within its window a sliding attention is a full one, so such a model serves up to the window.
    if let Some(window) = fields.optional("sliding_window")? {
        context = context.min(window);
    }
    let rope = fields.object("rope_parameters").or_else(|| fields.object("rope_scaling"));
    let theta =
        rope.and_then(|rope| Fields(rope).number("rope_theta")).or_else(|| fields.number("rope_theta"));
    let architecture = Architecture {
        family: clip(family),
        n_layers: fields.required("num_hidden_layers")?,
        hidden,
        heads,
        kv_heads: fields.optional("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: fields.required("intermediate_size")?,
        vocab: fields.required("vocab_size")?,
        context,
        norm_eps: fields.number("rms_norm_eps").unwrap_or(1e-6),
        rope_theta: theta.unwrap_or(10_000.0),
        rope_scaling: rope.map_or(Ok(None), |rope| rope_scaling(rope, context, &mut unsupported))?,
        tied_head: fields.flag("tie_word_embeddings"),
        window: None,
        local_rope_theta: None,
        query_scalar: None,
        experts: None,
    };
    if let Some(act) = fields.text("hidden_act").filter(|act| !matches!(*act, "silu" | "swish")) {
        unsupported.push(format!("hidden_act {:?}", clip(act)));
    }
    for flag in ["attention_bias", "mlp_bias"] {
        if fields.flag(flag) {
            unsupported.push(flag.to_owned());
        }
    }
    if fields.number("partial_rotary_factor").is_some_and(|factor| factor != 1.0) {
        unsupported.push("partial_rotary_factor".to_owned());
    }
    if let Some(quantisation) = fields.object("quantization_config") {
        let method = Fields(quantisation).text("quant_method").unwrap_or("unknown");
        unsupported.push(format!("quantization_config {:?}", clip(method)));
    }
    Ok(Reading { architecture, unsupported })
}

fn rope_scaling(
    rope: &Map<String, Value>,
    context: u32,
    unsupported: &mut Vec<String>,
) -> Result<Option<RopeScaling>, FieldError> {
    let fields = Fields(rope);
    let need =
        |name: &str| fields.number(name).ok_or_else(|| FieldError::new(name, "of rope_scaling is missing"));
    match fields.text("rope_type").or_else(|| fields.text("type")) {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: need("factor")? })),
        Some("llama3") => Ok(Some(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: fields.optional("original_max_position_embeddings")?.unwrap_or(context),
        })),
        Some(other) => {
            unsupported.push(format!("rope_scaling {:?}", clip(other)));
            Ok(None)
        }
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The value, unless absent or null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn optional(&self, name: &str) -> Result<Option<u32>, FieldError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| FieldError::new(name, "is not a 32-bit number"))
    }

    fn required(&self, name: &str) -> Result<u32, FieldError> {
        self.optional(name)?.ok_or_else(|| FieldError::new(name, "is missing"))
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.as_f64()
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    fn object(&self, name: &str) -> Option<&'a Map<String, Value>> {
        self.get(name)?.as_object()
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
}
