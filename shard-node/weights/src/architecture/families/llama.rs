//! Llama, and mistral, which is llama with a sliding window in some of its models. GGUF files call both llama.

use proto::manifest::{Architecture, SlidingWindow};

use super::{Family, Part, SILU, TWO_NORMS, attention, feed_forward, norms};
use crate::architecture::from_gguf::GgufFields;
use crate::architecture::from_hf::{HfDefaults, HfFields};
use crate::architecture::{FieldError, Reading};

pub(super) const LLAMA: Family = Family {
    name: "llama",
    model_types: &["llama"],
    gguf: Some("llama"),
    defaults: HfDefaults::USUAL,
    activations: SILU,
    read_hf: llama_from_hf,
    read_gguf: from_gguf,
    layer,
    gguf_parts: &[],
    gguf_interleaves: true,
    norms_about_zero: false,
    experts: None,
};

pub(super) const MISTRAL: Family =
    Family { name: "mistral", model_types: &["mistral"], gguf: None, read_hf: mistral_from_hf, ..LLAMA };

/// `LlamaConfig` has no window, and ignores one.
#[expect(clippy::unnecessary_wraps, reason = "the table's signature, for families with more to read")]
fn llama_from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    fields.refuse_biases(reading);
    Ok(())
}

/// `MistralConfig`: a window unless it is null, on all layers.
fn mistral_from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    fields.refuse_biases(reading);
    reading.architecture.window = fields
        .optional_unless_null("sliding_window", 4096)?
        .map(|width| SlidingWindow { width, global_every: None });
    Ok(())
}

fn from_gguf(fields: &GgufFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    reading.architecture.window = fields
        .optional("attention.sliding_window")?
        .filter(|&width| width > 0)
        .map(|width| SlidingWindow { width, global_every: None });
    Ok(())
}

fn layer(a: &Architecture, _: u32) -> Vec<Part> {
    norms(a, &TWO_NORMS).chain(attention(a)).chain(feed_forward(a)).collect()
}
