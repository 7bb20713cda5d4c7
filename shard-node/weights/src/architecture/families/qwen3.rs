//! Qwen 3: llama with a norm on the queries and keys of every head.

use proto::manifest::Architecture;

use super::{Family, Part, SILU, TWO_NORMS, attention, feed_forward, head_norms, norms, qwen2};
use crate::architecture::from_hf::{HfDefaults, HfFields};
use crate::architecture::{FieldError, Reading};

pub(super) const QWEN3: Family = Family {
    name: "qwen3",
    model_types: &["qwen3"],
    gguf: Some("qwen3"),
    defaults: HfDefaults { head_dim: Some(128), ..HfDefaults::USUAL },
    activations: SILU,
    read_hf: from_hf,
    read_gguf: qwen2::from_gguf,
    layer,
    gguf_parts: &[],
    gguf_interleaves: false,
    norms_about_zero: false,
    experts: None,
};

fn from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    fields.refuse_biases(reading);
    qwen2::window_from_hf(fields, reading)
}

fn layer(a: &Architecture, _: u32) -> Vec<Part> {
    norms(a, &TWO_NORMS).chain(attention(a)).chain(head_norms(a)).chain(feed_forward(a)).collect()
}
