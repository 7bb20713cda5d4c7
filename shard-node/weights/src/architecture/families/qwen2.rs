//! Qwen 2 and 2.5: llama with biases on queries, keys and values.

use proto::manifest::Architecture;

use super::{Family, Part, SILU, TWO_NORMS, attention, feed_forward, norms};
use crate::architecture::from_gguf::GgufFields;
use crate::architecture::from_hf::{HfDefaults, HfFields};
use crate::architecture::{FieldError, Reading};

pub(super) const QWEN2: Family = Family {
    name: "qwen2",
    model_types: &["qwen2"],
    gguf: Some("qwen2"),
    defaults: HfDefaults::USUAL,
    activations: SILU,
    read_hf: from_hf,
    read_gguf: from_gguf,
    layer,
    gguf_parts: &[],
    gguf_interleaves: false,
    norms_about_zero: false,
    experts: None,
};

/// The biases are always there; no flag says so.
fn from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    window_from_hf(fields, reading)
}

/// `Qwen2Config` and its successors: `sliding_window` counts where `use_sliding_window` is set, from layer
/// `max_window_layers` on, or where `layer_types` says so.
pub(super) fn window_from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    let a = &mut reading.architecture;
    if !fields.flag("use_sliding_window") {
        return Ok(());
    }
    let Some(width) = fields.optional_unless_null("sliding_window", 4096)? else { return Ok(()) };
    if let Some(types) = fields.layer_types(&mut reading.unsupported) {
        a.window = types.window(width, &mut reading.unsupported);
        return Ok(());
    }
    let whole = fields.optional("max_window_layers")?.unwrap_or(28);
    if whole == 0 {
        a.window = Some(proto::manifest::SlidingWindow { width, global_every: None });
    } else if whole < a.n_layers {
        let n_layers = a.n_layers;
        reading.unsupported.push(format!(
            "max_window_layers {whole} of {n_layers} (a window on some layers that are no pattern)"
        ));
    }
    Ok(())
}

/// GGUF files of this line have no windows.
pub(super) fn from_gguf(fields: &GgufFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    if fields.optional("attention.sliding_window")?.is_some_and(|width| width > 0) {
        reading.unsupported.push("attention.sliding_window".to_owned());
    }
    Ok(())
}

fn layer(a: &Architecture, _: u32) -> Vec<Part> {
    let [q, kv] = [a.heads, a.kv_heads].map(|heads| u64::from(heads) * u64::from(a.head_dim));
    let biases = [("q", q), ("k", kv), ("v", kv)];
    let biases = biases.map(|(name, rows)| (format!("self_attn.{name}_proj.bias"), vec![rows]));
    norms(a, &TWO_NORMS).chain(attention(a)).chain(biases).chain(feed_forward(a)).collect()
}
