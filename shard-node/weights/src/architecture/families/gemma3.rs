//! Gemma 3's text decoder: windows on most layers, a rotary base of their own, four norms a layer,
//! norms stored as what is added to one. Of a model with images only the text part is read.

use proto::manifest::{Architecture, SlidingWindow};

use super::{Family, Part, attention, feed_forward, head_norms, norms};
use crate::architecture::from_gguf::GgufFields;
use crate::architecture::from_hf::{HfDefaults, HfFields};
use crate::architecture::{FieldError, Reading};

pub(super) const GEMMA3: Family = Family {
    name: "gemma3",
    model_types: &["gemma3_text", "gemma3"],
    gguf: Some("gemma3"),
    // `Gemma3TextConfig`; the published configurations with images leave most of it out.
    defaults: HfDefaults {
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        vocab: Some(262_208),
        context: Some(131_072),
        rope_theta: 1_000_000.0,
        tied_head: true,
    },
    activations: &["gelu_pytorch_tanh", "gelu_tanh"],
    read_hf: from_hf,
    read_gguf: from_gguf,
    layer,
    gguf_parts: &[
        ("post_attention_norm", "post_attention_layernorm"),
        ("ffn_norm", "pre_feedforward_layernorm"),
        ("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    gguf_interleaves: false,
    norms_about_zero: true,
    experts: None,
};

/// Rotary base of the layers with a window, where the metadata name none.
const LOCAL_THETA: f64 = 10_000.0;
/// Every so manieth layer sees all positions, where the metadata do not say.
const PATTERN: u32 = 6;

fn from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    fields.refuse_biases(reading);
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if fields.number(cap).is_some() {
            reading.unsupported.push(cap.to_owned());
        }
    }
    if fields.flag("use_bidirectional_attention") {
        reading.unsupported.push("use_bidirectional_attention".to_owned());
    }
    let a = &mut reading.architecture;
    a.query_scalar = Some(fields.number("query_pre_attn_scalar").unwrap_or(256.0));
    if a.local_rope_theta.is_none() {
        a.local_rope_theta = Some(fields.number("rope_local_base_freq").unwrap_or(LOCAL_THETA));
    }
    let Some(width) = fields.optional_unless_null("sliding_window", 4096)? else { return Ok(()) };
    a.window = match fields.layer_types(&mut reading.unsupported) {
        Some(types) => types.window(width, &mut reading.unsupported),
        None => pattern(width, fields.optional("sliding_window_pattern")?.unwrap_or(PATTERN)),
    };
    Ok(())
}

/// llama.cpp gives the layers without a window `rope.freq_base` and the stretch, as HF does.
fn from_gguf(fields: &GgufFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    let a = &mut reading.architecture;
    a.local_rope_theta = Some(fields.number("rope.freq_base_swa").unwrap_or(LOCAL_THETA));
    // Only the 27B model differs from its heads' width, and no key says so (`llama_model::load_hparams`).
    if a.query_scalar.is_none() && a.n_layers == LARGEST_LAYERS && a.heads > 0 {
        a.query_scalar = Some(f64::from(a.hidden) / f64::from(a.heads));
    }
    let Some(width) = fields.optional("attention.sliding_window")?.filter(|&width| width > 0) else {
        return Ok(());
    };
    a.window = match fields.flags("attention.sliding_window_pattern") {
        Some(sliding) => {
            crate::architecture::LayerTypes::from_sliding(sliding).window(width, &mut reading.unsupported)
        }
        None => pattern(width, fields.optional("attention.sliding_window_pattern")?.unwrap_or(PATTERN)),
    };
    Ok(())
}

/// Layers of the 27B model.
const LARGEST_LAYERS: u32 = 62;

fn pattern(width: u32, every: u32) -> Option<SlidingWindow> {
    // Every layer is every first: none has a window.
    (every != 1).then_some(SlidingWindow { width, global_every: Some(every) })
}

fn layer(a: &Architecture, _: u32) -> Vec<Part> {
    norms(a, &FOUR_NORMS).chain(attention(a)).chain(head_norms(a)).chain(feed_forward(a)).collect()
}

const FOUR_NORMS: [&str; 4] = [
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];
