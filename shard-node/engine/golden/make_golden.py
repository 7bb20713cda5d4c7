#!/usr/bin/env python3
"""Makes the golden files beside it: a tiny random llama and its logits as transformers computes them in f32.

    pip install torch==2.11.0 transformers==5.23.0 safetensors
    python make_golden.py

tiny-llama/            config.json and bf16 weights, 3 layers, hidden 64
tiny-llama3/           the same weights under Llama 3's stretched rotary embedding (config.json only; the test
                       joins it with the weights)
tokens.json            96 token ids
tiny-llama.logits      f32 little-endian [96, 320]: logits at every position; likewise tiny-llama3.logits
"""
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
SIZES = dict(vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5,
             tie_word_embeddings=True, attention_bias=False, mlp_bias=False, hidden_act="silu")
VARIANTS = {
    "tiny-llama": dict(rope_theta=10000.0),
    # original context 32: some frequencies are kept, some stretched, some between, all within 96 positions
    "tiny-llama3": dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                        original_max_position_embeddings=32),
}


def lively(model, seed):
    """N(0, 1/sqrt(fan_in)): transformers' own 0.02 makes a model that repeats its last token"""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                p.copy_(1 + 0.1 * noise)
            else:
                p.copy_((2 if "embed" in name else 1) * noise / p.shape[1] ** 0.5)
            p.copy_(p.to(torch.bfloat16).float())


def main():
    tokens = torch.randint(0, 320, (96,), generator=torch.Generator().manual_seed(1)).tolist()
    (HERE / "tokens.json").write_text(json.dumps(tokens))
    for name, rope in VARIANTS.items():
        rope = dict(rope)
        rope.setdefault("rope_type", "default")
        config = LlamaConfig(**SIZES, rope_parameters=rope)
        model = LlamaForCausalLM(config).float().eval()
        lively(model, 0)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        written = dict(SIZES, model_type="llama", torch_dtype="bfloat16", rope_parameters=rope)
        (folder / "config.json").write_text(json.dumps(written, indent=1))
        if name == "tiny-llama":
            state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].float()
        (HERE / f"{name}.logits").write_bytes(logits.numpy().astype("<f4").tobytes())
        print(name, tuple(logits.shape), "std", float(logits.std()), "distinct argmax", len(set(logits.argmax(-1).tolist())))


if __name__ == "__main__":
    main()
