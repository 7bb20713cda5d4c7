#!/usr/bin/env python3
"""A synthetic llama of `benches -- synthetic` as GGUF, for measuring llama.cpp with the same weights.

    pip install gguf safetensors torch
    python to_gguf.py MODEL_DIR OUT.gguf --type bf16|f16|q8_0|q4_0

In the quantised types the embedding, which is the head too, is Q8_0: llama.cpp's own choice for Q4_0 files, Q6_K, can't be
written by the gguf package. There is no vocabulary: llama-bench draws token ids by itself.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors import safe_open

TYPES = {
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


def permuted(weights, heads):
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py: the two halves of a head's rows interleaved"""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--type", choices=TYPES, default="q8_0")
    options = parser.parse_args()
    matrix_type, file_type = TYPES[options.type]
    config = json.loads((options.model / "config.json").read_text())
    layers, heads, kv_heads = (config[key] for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"))

    writer = gguf.GGUFWriter(options.out, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(file_type)
    writer.add_tokenizer_model("no_vocab")

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    with safe_open(options.model / "model.safetensors", framework="pt") as tensors:
        for name in tensors.keys():
            values = tensors.get_tensor(name).to(torch.float32).numpy()
            if "q_proj" in name:
                values = permuted(values, heads)
            elif "k_proj" in name:
                values = permuted(values, kv_heads)
            kind = matrix_type if values.ndim > 1 else gguf.GGMLQuantizationType.F32
            if "embed_tokens" in name and options.type == "q4_0":
                kind = gguf.GGMLQuantizationType.Q8_0
            stored = gguf.quants.quantize(np.ascontiguousarray(values), kind)
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
