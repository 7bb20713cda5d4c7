//! One name per tensor: the HF name is canonical, GGUF names are translated to it.
//! Names only; shapes and bytes are elsewhere.

/// The canonical (HF) name of a GGUF tensor; `None` for tensors that have no HF counterpart (those keep
/// their own name). `own` lists the parts of a layer that the family calls otherwise than most.
pub fn canonical_from_gguf(name: &str, own: &[(&str, &str)]) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (number, rest) = gguf_layer(name)?;
    let (part, suffix) = rest.rsplit_once('.')?;
    if suffix != "weight" && suffix != "bias" {
        return None;
    }
    let (_, hf) = own.iter().chain(&LAYER_PARTS).find(|(gguf, _)| *gguf == part)?;
    Some(format!("model.layers.{number}.{hf}.{suffix}"))
}

/// The canonical name of a tensor in an HF checkpoint: models with images keep their decoder under a
/// prefix, of which there are two, from before and after `transformers` 4.52.
pub fn canonical_from_hf(name: &str) -> String {
    match (name.strip_prefix("language_model."), name.strip_prefix("model.language_model.")) {
        (Some(rest), _) => rest.to_owned(),
        (_, Some(rest)) => format!("model.{rest}"),
        _ => name.to_owned(),
    }
}

/// The layer of a GGUF tensor, and its name within the layer.
pub(crate) fn gguf_layer(name: &str) -> Option<(u32, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // A canonical decimal only, so that two GGUF names never become one.
    let number: u32 = layer.parse().ok()?;
    (number.to_string() == layer).then_some((number, rest))
}

/// The layer a canonical name belongs to, if any.
pub fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()
}

/// Are the rows of this GGUF tensor reordered relative to HF, in a family whose converter interleaves q
/// and k (`LlamaModel.permute` in llama.cpp's `convert_hf_to_gguf.py`)?
pub(crate) fn permuted_in_llama_gguf(name: &str) -> bool {
    name.starts_with("blk.")
        && ["attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias"].iter().any(|part| {
            name.rsplit_once(part).is_some_and(|(head, tail)| head.ends_with('.') && tail.is_empty())
        })
}

const LAYER_PARTS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gguf_names_become_hf_names() {
        let cases = [
            ("blk.3.attn_q.weight", Some("model.layers.3.self_attn.q_proj.weight")),
            ("blk.11.ffn_down.weight", Some("model.layers.11.mlp.down_proj.weight")),
            ("blk.0.attn_k.bias", Some("model.layers.0.self_attn.k_proj.bias")),
            ("output.weight", Some("lm_head.weight")),
            ("rope_freqs.weight", None),
            ("blk.03.attn_q.weight", None),
            ("blk.+3.attn_q.weight", None),
            ("blk.99999999999.attn_q.weight", None),
        ];
        for (gguf, hf) in cases {
            assert_eq!(canonical_from_gguf(gguf, &[]).as_deref(), hf, "{gguf}");
        }
        let own = [("ffn_norm", "pre_feedforward_layernorm")];
        let name = canonical_from_gguf("blk.2.ffn_norm.weight", &own);
        assert_eq!(name.as_deref(), Some("model.layers.2.pre_feedforward_layernorm.weight"));
        for name in ["language_model.model.norm.weight", "model.language_model.norm.weight"] {
            assert_eq!(canonical_from_hf(name), "model.norm.weight");
        }
        assert_eq!(layer_of("model.layers.11.mlp.down_proj.weight"), Some(11));
        assert_eq!(layer_of("model.norm.weight"), None);
    }

    #[test]
    fn only_q_and_k_are_permuted() {
        assert!(permuted_in_llama_gguf("blk.0.attn_q.weight"));
        assert!(permuted_in_llama_gguf("blk.0.attn_k.bias"));
        assert!(!permuted_in_llama_gguf("blk.0.attn_v.weight"));
        assert!(!permuted_in_llama_gguf("blk.0.attn_q_norm.weight"));
    }
}
