//! Llama and what computes like it: pre-norm, rotary attention with grouped keys, gated `SiLU`
//! (Touvron et al. 2023, <https://arxiv.org/abs/2302.13971>; HF `modeling_llama.py`).

use proto::LayerIndex;
use proto::manifest::Architecture;
use tch::Tensor;

use super::DecoderLayer;
use crate::error::EngineError;
use crate::ffi::TorchError;
use crate::kernels::linear::Linear;
use crate::kernels::rows::{rms_norm, silu_mul};
use crate::rows::StepRows;
use crate::span_weights::SpanWeights;

/// Nine operators for a decode step on the CPU; the count is what small models wait for.
#[derive(Debug)]
struct LlamaLayer {
    eps: f64,
    attention_norm: Tensor,
    /// Queries, keys and values in one matrix.
    qkv: Linear,
    output: Linear,
    ffn_norm: Tensor,
    /// Gate and up in one matrix.
    gate_up: Linear,
    down: Linear,
}

pub(super) fn load(
    weights: &SpanWeights<'_>,
    architecture: &Architecture,
    layer: LayerIndex,
) -> Result<Box<dyn DecoderLayer>, EngineError> {
    let a = architecture;
    let [hidden, ffn] = [a.hidden, a.ffn].map(u64::from);
    let [queries, keys] = [a.heads, a.kv_heads].map(|heads| u64::from(heads) * u64::from(a.head_dim));
    let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
    Ok(Box::new(LlamaLayer {
        eps: a.norm_eps,
        attention_norm: weights.vector(&name("input_layernorm"), hidden)?,
        qkv: weights.linear(
            &[
                (&name("self_attn.q_proj"), queries),
                (&name("self_attn.k_proj"), keys),
                (&name("self_attn.v_proj"), keys),
            ],
            hidden,
        )?,
        output: weights.linear(&[(&name("self_attn.o_proj"), hidden)], queries)?,
        ffn_norm: weights.vector(&name("post_attention_layernorm"), hidden)?,
        gate_up: weights.linear(&[(&name("mlp.gate_proj"), ffn), (&name("mlp.up_proj"), ffn)], hidden)?,
        down: weights.linear(&[(&name("mlp.down_proj"), hidden)], ffn)?,
    }))
}

impl DecoderLayer for LlamaLayer {
    fn forward(&self, x: &Tensor, rows: &mut StepRows<'_>) -> Result<Tensor, TorchError> {
        let mut qkv = self.qkv.forward(&rms_norm(x, &self.attention_norm, self.eps)?)?;
        let x = self.output.forward_add(&rows.attend(&mut qkv)?, x)?;
        let gate_up = self.gate_up.forward(&rms_norm(&x, &self.ffn_norm, self.eps)?)?;
        self.down.forward_add(&silu_mul(&gate_up)?, &x)
    }

    fn bytes(&self) -> usize {
        [&self.qkv, &self.output, &self.gate_up, &self.down].iter().map(|linear| linear.bytes()).sum()
    }
}
