#!/usr/bin/env python3
"""Makes the golden files beside it: tiny random models of every family, and what transformers computes with them in f32.

    pip install torch==2.11.0 transformers==5.23.0 safetensors gguf==0.19.0
    python make_golden.py

tokens.json             96 token ids
matrices.safetensors    the bf16 matrices that the models without experts share: 4 layers, hidden 32, 4 heads of 16, 2 for
                        keys, feed-forward 64, vocabulary 128
NAME/config.json        of a variant; NAME/own.safetensors holds the tensors it does not share (norms, biases, head)
NAME/logits             f32 little-endian [96, 128]: logits at every position
NAME/greedy.json        64 tokens that follow the first 32, greedily
NAME/bf16.json          root mean square of the difference that bf16 makes to transformers' own logits
NAME/model.gguf         the whole model as llama.cpp's converter stores it: names, permuted q and k, gemma's norms
"""
import json
import math
import pathlib
import zlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import save_file
from transformers import (Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

HERE = pathlib.Path(__file__).parent
POSITIONS, PROMPT, VOCAB = 96, 32, 128
SIZES = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5, pad_token_id=None,
             bos_token_id=None, eos_token_id=None)
LLAMA = dict(tie_word_embeddings=False, attention_bias=False, mlp_bias=False, hidden_act="silu")


SHARP = ("lm_head", "q_proj", "k_proj")


def rope(kind="default", theta=10000.0, **numbers):
    return dict(rope_type=kind, rope_theta=theta, **numbers)


# name: (configuration, model, general.architecture of its GGUF, what the configuration says besides the sizes)
VARIANTS = {
    "llama-linear": (LlamaConfig, LlamaForCausalLM, "llama", dict(
        LLAMA, tie_word_embeddings=True, rope_parameters=rope("linear", factor=4.0))),
    # Numbers of the published models, which a GGUF takes for granted: half of the frequencies are stretched.
    "llama-llama3": (LlamaConfig, LlamaForCausalLM, "llama", dict(LLAMA, rope_parameters=rope(
        "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192), max_position_embeddings=16384)),
    # The first pair of elements turns as ever, the next is stretched in part, the others whole.
    "llama-yarn": (LlamaConfig, LlamaForCausalLM, "llama", dict(LLAMA, rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=24), max_position_embeddings=96)),
    "mistral-window": (MistralConfig, MistralForCausalLM, "llama", dict(
        tie_word_embeddings=False, hidden_act="silu", sliding_window=32, rope_parameters=rope())),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, "qwen2", dict(
        tie_word_embeddings=False, hidden_act="silu", use_sliding_window=False, sliding_window=32, max_window_layers=2,
        rope_parameters=rope(theta=1000000.0))),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, "qwen3", dict(
        tie_word_embeddings=False, hidden_act="silu", attention_bias=False, use_sliding_window=False,
        rope_parameters=rope(theta=1000000.0))),
    # Layer 2 sees all positions, the others 24. No published model but the largest has a scalar other than head_dim.
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, "gemma3", dict(
        tie_word_embeddings=True, hidden_activation="gelu_pytorch_tanh", attention_bias=False, sliding_window=24,
        query_pre_attn_scalar=24, layer_types=["sliding_attention"] * 2 + ["full_attention", "sliding_attention"],
        rope_parameters=dict(full_attention=rope("linear", 1000000.0, factor=8.0), sliding_attention=rope()))),
}


def lively(model, about_zero):
    """N(0, 1/sqrt(fan_in)), each tensor from its own seed: transformers' 0.02 makes a model that repeats its last token."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            if "norm" in name:
                sharper = 0.5 if "q_norm" in name or "k_norm" in name else 0
                p.copy_(0.1 * noise + (0 if about_zero else 1) + sharper)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            else:
                # Small embeddings: in a model with a tied head, large ones would only repeat the last token.
                factor = 0.5 if "embed" in name else 2 if any(part in name for part in SHARP) else 1
                p.copy_(factor * noise / p.shape[-1] ** 0.5)
            p.copy_(p.to(torch.bfloat16).float())


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float()


def greedy(model, prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_of(model, tokens)[-1].argmax()))
    return tokens[len(prompt):]


def permuted(weights, heads):  # LlamaModel.permute of convert_hf_to_gguf.py
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2)
            .reshape(weights.shape))


def llama3_divisors(numbers, dim):  # LlamaModel.generate_extra_tensors
    frequencies = 1.0 / (numbers["rope_theta"] ** (np.arange(0, dim, 2) / dim))
    original, factor = numbers["original_max_position_embeddings"], numbers["factor"]
    low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
    divisors = []
    for frequency in frequencies:
        turns = original * frequency / (2 * math.pi)
        smooth = (turns - low) / (high - low)
        divisors.append(1.0 if turns > high else factor if turns < low else 1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


LAYER_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
               "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
               "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
               "mlp.down_proj": "ffn_down"}
TWO_NORMS = {"post_attention_layernorm": "ffn_norm"}
GEMMA_NORMS = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}


def gguf_name(name, own):
    for hf, stored in (("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")):
        if name.startswith(hf + "."):
            return stored + name[len(hf):]
    _, _, layer, rest = name.split(".", 3)
    part, suffix = rest.rsplit(".", 1)
    return f"blk.{layer}.{(LAYER_NAMES | own)[part]}.{suffix}"


def write_gguf(path, architecture, config, state):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(SIZES["head_dim"])
    writer.add_value_length(SIZES["head_dim"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    if architecture == "gemma3":
        # The converter leaves the pattern, the local base and the scale to llama.cpp's constants; their keys exist.
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        writer.add_attention_scale(config.query_pre_attn_scalar ** -0.5)
        rope = rope["full_attention"]
    elif isinstance(config, MistralConfig):
        writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, SIZES["head_dim"]))
    own = GEMMA_NORMS if architecture == "gemma3" else TWO_NORMS
    for name, values in state.items():
        values = values.float().numpy()
        if architecture == "llama" and (".q_proj" in name or ".k_proj" in name):
            values = permuted(values, SIZES["num_attention_heads" if ".q_proj" in name else "num_key_value_heads"])
        if architecture == "gemma3" and name.endswith("norm.weight"):
            values = values + np.float32(1)  # Gemma3Model.norm_shift
        kind = T.F32 if values.ndim == 1 else T.BF16
        writer.add_tensor(gguf_name(name, own), gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    tokens = torch.randint(0, VOCAB, (POSITIONS,), generator=torch.Generator().manual_seed(1)).tolist()
    (HERE / "tokens.json").write_text(json.dumps(tokens))
    shared = None
    for name, (make_config, make_model, architecture, says) in VARIANTS.items():
        says = dict(SIZES, **says)
        config = make_config(**json.loads(json.dumps(says)), attn_implementation="eager")
        model = make_model(config).float().eval()
        lively(model, about_zero=architecture == "gemma3")
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        written = {key: value for key, value in says.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(dict(written, model_type=config.model_type), indent=1) + "\n")
        tied = says["tie_word_embeddings"]
        state = {key: value for key, value in model.state_dict().items() if not (tied and key == "lm_head.weight")}
        bf16 = {key: value.to(torch.bfloat16).contiguous() for key, value in state.items()}
        matrices = {key: value for key, value in bf16.items() if value.dim() > 1 and key != "lm_head.weight"}
        if shared is None:
            shared = matrices
            save_file(shared, HERE / "matrices.safetensors")
        assert shared.keys() == matrices.keys() and all(torch.equal(shared[key], matrices[key]) for key in shared)
        save_file({key: value for key, value in bf16.items() if key not in shared}, folder / "own.safetensors")
        logits = logits_of(model, tokens)
        (folder / "logits").write_bytes(logits.numpy().astype("<f4").tobytes())
        (folder / "greedy.json").write_text(json.dumps(greedy(model, tokens[:PROMPT], 64)))
        write_gguf(folder / "model.gguf", architecture, config, state)
        rounded = logits_of(model.to(torch.bfloat16), tokens)
        (folder / "bf16.json").write_text(json.dumps(float((rounded - logits).square().mean().sqrt())))
        print(f"{name}: logits' deviation {float(logits.std()):.2f}, distinct greedy tokens",
              len(set(json.loads((folder / 'greedy.json').read_text()))))


if __name__ == "__main__":
    main()
