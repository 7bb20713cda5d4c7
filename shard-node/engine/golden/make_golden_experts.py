#!/usr/bin/env python3
"""Makes the golden files of the families with experts, beside those of `make_golden.py`, which it needs: tiny random
models, and what transformers computes with them in f32.

    pip install torch==2.11.0 transformers==5.23.0 safetensors gguf==0.19.0
    python make_golden.py && python make_golden_experts.py

NAME/config.json, NAME/own.safetensors   as transformers itself saves them: a tensor for each expert and matrix
NAME/model.gguf                          the experts of a layer stacked, as llama.cpp's converter stores them
NAME/logits, greedy.json, bf16.json      as in make_golden.py
"""
import json

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from make_golden import HERE, PROMPT, SIZES, VOCAB, greedy, logits_of, permuted, rope
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

QWEN = dict(SIZES, moe_intermediate_size=16, num_experts=8, num_experts_per_tok=3, rope_parameters=rope())
MIXTRAL = dict(SIZES, intermediate_size=24, num_local_experts=6, num_experts_per_tok=2, rope_parameters=rope(theta=1e6))
# The seeds are those whose nearest decision, of a router or between two tokens, is 20 times the tests' bound or more.
VARIANTS = {
    "qwen3-moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**QWEN, norm_topk_prob=True), 70),
    # The weights of a row's experts sum to less than one.
    "qwen3-moe-plain": (Qwen3MoeForCausalLM, Qwen3MoeConfig(**QWEN, norm_topk_prob=False), 94),
    "mixtral": (MixtralForCausalLM, MixtralConfig(**MIXTRAL), 9),
}
ENOUGH = 2e-3


def lively(model, seed):
    """N(0, 1/sqrt(fan_in)); a quiet router would have no opinion, and a quiet head's tokens would lie close together"""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                p.copy_(1 + 0.1 * noise)
            else:
                loud = "lm_head" in name or name.endswith("mlp.gate.weight")
                p.copy_((2 if loud else 1) * noise / p.shape[-1] ** 0.5)
            p.copy_(p.to(torch.bfloat16).float())


def nearest_choice(model, tokens):
    """how near the last expert chosen is to the next, over all rows and layers; every expert has to be chosen"""
    seen, nearest = [], float("inf")
    handles = [layer.mlp.gate.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in model.model.layers]
    logits_of(model, tokens)
    for handle in handles:
        handle.remove()
    for logits, _, chosen in seen:
        if len(chosen.unique()) < logits.shape[-1]:
            return 0.0
        top = logits.sort(-1, descending=True).values
        nearest = min(nearest, float((top[:, chosen.shape[-1] - 1] - top[:, chosen.shape[-1]]).min()))
    return nearest


def nearest_tokens(model, tokens):
    """how near the greedy token is to the second, over the last 64"""
    top = logits_of(model, tokens)[-65:-1].topk(2).values
    return float((top[:, 0] - top[:, 1]).min())


def write_gguf(path, model):
    config = model.config
    mixtral = config.model_type == "mixtral"
    writer = gguf.GGUFWriter(path, "llama" if mixtral else "qwen3moe")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    if not mixtral:
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if not config.norm_topk_prob:
            writer.add_expert_weights_norm(False)

    def add(name, values):
        values = values.detach().numpy()
        kind = T.F32 if values.ndim == 1 or "gate_inp" in name else T.BF16
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)

    add("token_embd", model.model.embed_tokens.weight)
    for number, layer in enumerate(model.model.layers):
        attention, mlp, blk = layer.self_attn, layer.mlp, f"blk.{number}"
        query, key = attention.q_proj.weight, attention.k_proj.weight
        if mixtral:
            query, key = permuted(query, heads), permuted(key, kv_heads)
        else:
            add(f"{blk}.attn_q_norm", attention.q_norm.weight)
            add(f"{blk}.attn_k_norm", attention.k_norm.weight)
        gate, up = mlp.experts.gate_up_proj.chunk(2, dim=1)
        for name, values in [
            ("attn_norm", layer.input_layernorm.weight), ("attn_q", query), ("attn_k", key),
            ("attn_v", attention.v_proj.weight), ("attn_output", attention.o_proj.weight),
            ("ffn_norm", layer.post_attention_layernorm.weight), ("ffn_gate_inp", mlp.gate.weight),
            ("ffn_gate_exps", gate), ("ffn_up_exps", up), ("ffn_down_exps", mlp.experts.down_proj),
        ]:
            add(f"{blk}.{name}", values)
    add("output_norm", model.model.norm.weight)
    add("output", model.lm_head.weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    tokens = json.loads((HERE / "tokens.json").read_text())
    assert max(tokens) < VOCAB
    for name, (make_model, config, seed) in VARIANTS.items():
        model = make_model(config).float().eval()
        lively(model, seed)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        logits = logits_of(model, tokens)
        (folder / "logits").write_bytes(logits.numpy().astype("<f4").tobytes())
        follow = greedy(model, tokens[:PROMPT], 64)
        (folder / "greedy.json").write_text(json.dumps(follow))
        both = [tokens, tokens[:PROMPT] + follow]
        nearest = [nearest_choice(model, tokens) for tokens in both] + [nearest_tokens(model, both[1])]
        assert min(nearest) >= ENOUGH, (name, nearest)
        write_gguf(folder / "model.gguf", model)
        model = model.to(torch.bfloat16)
        (folder / "bf16.json").write_text(json.dumps(float((logits_of(model, tokens) - logits).square().mean().sqrt())))
        model.save_pretrained(folder)
        (folder / "model.safetensors").rename(folder / "own.safetensors")
        (folder / "own.safetensors").chmod(0o644)
        (folder / "generation_config.json").unlink(missing_ok=True)
        print(f"{name}: logits' deviation {float(logits.std()):.2f}, distinct greedy tokens {len(set(follow))}, "
              f"nearest decisions {nearest}")


if __name__ == "__main__":
    main()
