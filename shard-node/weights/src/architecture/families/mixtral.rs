//! Mixtral: mistral with experts. GGUF files call it llama, as they do mistral.

use proto::manifest::{Architecture, Experts, SlidingWindow};

use super::{Family, Part, SILU, TWO_NORMS, attention, experts, norms, qwen3_moe};
use crate::architecture::from_gguf::GgufFields;
use crate::architecture::from_hf::{HfDefaults, HfFields};
use crate::architecture::{FieldError, Reading};
use crate::experts::{ExpertNames, checked};

pub(super) const MIXTRAL: Family = Family {
    name: "mixtral",
    model_types: &["mixtral"],
    gguf: Some("llama"),
    // `MixtralConfig`.
    defaults: HfDefaults { rope_theta: 1_000_000.0, ..HfDefaults::USUAL },
    activations: SILU,
    read_hf: from_hf,
    read_gguf: from_gguf,
    layer,
    gguf_parts: &[],
    gguf_interleaves: true,
    norms_about_zero: false,
    experts: Some(ExpertNames::MIXTRAL),
};

/// The weights of a row's two experts are always divided by their sum: a softmax over these two.
fn from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    fields.refuse_biases(reading);
    let a = &mut reading.architecture;
    a.window = fields.optional("sliding_window")?.map(|width| SlidingWindow { width, global_every: None });
    // `MixtralConfig` has 8 of which 2 are used; every published configuration says so.
    let experts = Experts {
        count: fields.required("num_local_experts")?,
        used: fields.required("num_experts_per_tok")?,
        ffn: a.ffn,
        normalise: true,
    };
    a.experts = Some(checked(experts, a.n_layers, ["num_local_experts", "num_experts_per_tok"])?);
    Ok(())
}

fn from_gguf(fields: &GgufFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    reading.architecture.window = fields
        .optional("attention.sliding_window")?
        .filter(|&width| width > 0)
        .map(|width| SlidingWindow { width, global_every: None });
    qwen3_moe::experts_from_gguf(fields, reading)
}

fn layer(a: &Architecture, layer: u32) -> Vec<Part> {
    norms(a, &TWO_NORMS).chain(attention(a)).chain(experts(a, layer)).collect()
}
