//! Qwen 3 with experts in every layer. Layers without them, which its configuration allows for, are refused: no
//! published model has any.

use proto::manifest::{Architecture, Experts};

use super::{Family, Part, SILU, TWO_NORMS, attention, experts, head_norms, norms, qwen2};
use crate::architecture::from_gguf::GgufFields;
use crate::architecture::from_hf::{HfDefaults, HfFields};
use crate::architecture::{FieldError, Reading};
use crate::experts::{ExpertNames, checked};

pub(super) const QWEN3_MOE: Family = Family {
    name: "qwen3_moe",
    model_types: &["qwen3_moe"],
    gguf: Some("qwen3moe"),
    defaults: HfDefaults::USUAL,
    activations: SILU,
    read_hf: from_hf,
    read_gguf: from_gguf,
    layer,
    gguf_parts: &[],
    gguf_interleaves: false,
    norms_about_zero: false,
    experts: Some(ExpertNames::USUAL),
};

fn from_hf(fields: &HfFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    fields.refuse_biases(reading);
    qwen2::window_from_hf(fields, reading)?;
    if fields
        .get("mlp_only_layers")
        .is_some_and(|layers| layers.as_array().is_none_or(|list| !list.is_empty()))
    {
        reading.unsupported.push("mlp_only_layers (layers without experts)".to_owned());
    }
    let step = fields.optional("decoder_sparse_step")?.unwrap_or(1);
    if step != 1 {
        reading.unsupported.push(format!("decoder_sparse_step {step} (layers without experts)"));
    }
    // Published files say `num_experts`, those of `transformers` 5 the other.
    let count = if fields.get("num_experts").is_some() { "num_experts" } else { "num_local_experts" };
    let a = &mut reading.architecture;
    let experts = Experts {
        count: fields.required(count)?,
        used: fields.required("num_experts_per_tok")?,
        ffn: fields.required("moe_intermediate_size")?,
        normalise: fields.flag("norm_topk_prob"),
    };
    a.experts = Some(checked(experts, a.n_layers, [count, "num_experts_per_tok"])?);
    Ok(())
}

fn from_gguf(fields: &GgufFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    qwen2::from_gguf(fields, reading)?;
    experts_from_gguf(fields, reading)
}

/// llama.cpp divides the weights of both families by their sum (`llm_build_qwen3moe`), whatever the metadata say; here
/// they may say otherwise. Whatever else it can do with experts is refused.
pub(super) fn experts_from_gguf(fields: &GgufFields<'_>, reading: &mut Reading) -> Result<(), FieldError> {
    for (key, usual) in [
        ("expert_shared_count", 0),
        ("expert_group_count", 1),
        // A softmax.
        ("expert_gating_func", 1),
        ("leading_dense_block_count", 0),
    ] {
        if let Some(number) = fields.optional(key)?.filter(|&number| number != usual && number != 0) {
            reading.unsupported.push(format!("{key} {number}"));
        }
    }
    if fields.number("expert_weights_scale").is_some_and(|scale| scale != 1.0 && scale != 0.0) {
        reading.unsupported.push("expert_weights_scale".to_owned());
    }
    let a = &mut reading.architecture;
    let experts = Experts {
        count: fields.required("expert_count")?,
        used: fields.required("expert_used_count")?,
        ffn: fields.optional("expert_feed_forward_length")?.unwrap_or(a.ffn),
        normalise: fields.flag("expert_weights_norm").unwrap_or(true),
    };
    a.experts = Some(checked(experts, a.n_layers, ["expert_count", "expert_used_count"])?);
    Ok(())
}

fn layer(a: &Architecture, layer: u32) -> Vec<Part> {
    norms(a, &TWO_NORMS).chain(attention(a)).chain(head_norms(a)).chain(experts(a, layer)).collect()
}
