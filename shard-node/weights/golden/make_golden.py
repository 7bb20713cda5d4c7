#!/usr/bin/env python3
"""Makes the goldens of the dequantisation tests with the Python `gguf` package (not with our own code).

    python3 -m venv /tmp/v && /tmp/v/bin/pip install gguf==0.19.0 && /tmp/v/bin/python make_golden.py

For each type: TYPE.stored holds raw blocks, TYPE.f32 and TYPE.bf16 what `gguf.quants` makes of them. The blocks
are half quantised Gaussians and half random bits (with finite scales), so that every nibble, sign, subnormal
scale and rounding tie occurs; the K types, which that package cannot make, are random bits only. tiny.gguf is a whole file written by `gguf.GGUFWriter`, with its values beside it.
"""
import pathlib
import numpy as np
import gguf
from gguf import GGMLQuantizationType as T

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(20261122)
VALUES = 32 * 96


def scales(count):
    bits = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    return np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits)  # infinities and NaN become subnormals


def random_blocks(ty, count):
    _, size = gguf.GGML_QUANT_SIZES[ty]
    if ty in (T.F32, T.F16, T.BF16):
        kind = {T.F32: np.float32, T.F16: np.float16}.get(ty)
        raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
        if ty == T.BF16:
            bits = raw.view(np.uint16)
            bits[(bits & 0x7F80) == 0x7F80] &= 0x807F
        else:
            raw.view(kind)[~np.isfinite(raw.view(kind))] = 0
        return raw
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    raw[:, 0:2] = scales(count).view(np.uint8).reshape(count, 2)
    if ty == T.Q4_1:
        raw[:, 2:4] = scales(count).view(np.uint8).reshape(count, 2)
    return raw


def bf16(values):
    return gguf.quants.quantize(values.astype(np.float32), T.BF16).view(np.uint8)


for ty in (T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q8_0):
    block, size = gguf.GGML_QUANT_SIZES[ty]
    gaussian = rng.normal(0, 0.05, (1, VALUES)).astype(np.float32)
    quantised = np.ascontiguousarray(gguf.quants.quantize(gaussian, ty)).view(np.uint8).reshape(-1)
    stored = np.concatenate([quantised, random_blocks(ty, VALUES // block).reshape(-1)])
    view = stored.view({T.F32: np.float32, T.F16: np.float16}.get(ty, np.uint8))
    values = np.ascontiguousarray(gguf.quants.dequantize(view, ty)).astype(np.float32).reshape(-1)
    (HERE / f"{ty.name}.stored").write_bytes(stored.tobytes())
    (HERE / f"{ty.name}.f32").write_bytes(values.tobytes())
    (HERE / f"{ty.name}.bf16").write_bytes(bf16(values.reshape(1, -1)).tobytes())

# A whole llama: 1 layer, hidden 64, 4 heads of 16, 2 kv heads; q and k permuted as llama.cpp's converter does.
HIDDEN, HEADS, KV, FFN, VOCAB = 64, 4, 2, 96, 40


def permute(weights, heads):  # LlamaModel.permute of convert_hf_to_gguf.py
    return (weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
            .swapaxes(1, 2).reshape(weights.shape))


writer = gguf.GGUFWriter(HERE / "tiny.gguf", "llama")
writer.add_block_count(1)
writer.add_context_length(256)
writer.add_embedding_length(HIDDEN)
writer.add_feed_forward_length(FFN)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV)
writer.add_rope_freq_base(10000.0)
writer.add_rope_dimension_count(HIDDEN // HEADS)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(VOCAB)
writer.add_array("layerlane.booleans", [True, False])
writer.add_array("layerlane.signed", [-1, 2])
writer.add_int64("layerlane.wide", -(1 << 40))
writer.add_float64("layerlane.precise", 0.1)
writer.add_string("layerlane.text", "grüß dich")
hf = {}
tensors = {
    "token_embd.weight": ((VOCAB, HIDDEN), T.Q8_0),
    "blk.0.attn_norm.weight": ((HIDDEN,), T.F32),
    "blk.0.attn_q.weight": ((HIDDEN, HIDDEN), T.Q4_1),
    "blk.0.attn_k.weight": ((KV * HIDDEN // HEADS, HIDDEN), T.Q4_0),
    "blk.0.attn_v.weight": ((KV * HIDDEN // HEADS, HIDDEN), T.BF16),
    "blk.0.attn_output.weight": ((HIDDEN, HIDDEN), T.F16),
    "blk.0.ffn_norm.weight": ((HIDDEN,), T.F32),
    "blk.0.ffn_gate.weight": ((FFN, HIDDEN), T.Q4_1),
    "blk.0.ffn_up.weight": ((FFN, HIDDEN), T.Q4_1),
    "blk.0.ffn_down.weight": ((HIDDEN, FFN), T.Q4_1),
    "output_norm.weight": ((HIDDEN,), T.F32),
}
for name, (shape, ty) in tensors.items():
    weights = rng.normal(0, 0.1, shape).astype(np.float32)
    stored = gguf.quants.quantize(weights, ty)
    values = gguf.quants.dequantize(stored, ty).astype(np.float32).reshape(shape)
    if name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        heads = HEADS if "attn_q" in name else KV
        stored = permute(stored, heads)  # rows move whole, so quantising and permuting commute
        hf[name] = values
    writer.add_tensor(name, stored, raw_dtype=ty)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
for name, values in hf.items():  # q and k in HF order
    (HERE / f"tiny.{name.split('.')[2]}.f32").write_bytes(np.ascontiguousarray(values).tobytes())

# Types that came later have their own generator, so that the files above stay as they are.
SCALES = {T.Q5_0: [0], T.Q5_1: [0, 2], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
# Largest, smallest and zero of either sign; subnormal; usual.
EXTREMES = np.array([0x7BFF, 0xFBFF, 0x0400, 0x0001, 0x8001, 0x0000, 0x8000, 0x3C00, 0x2000], dtype=np.uint16)
rng = np.random.default_rng(20261123)
for ty, places in SCALES.items():
    block, size = gguf.GGML_QUANT_SIZES[ty]
    count = VALUES // block * 2
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for place in places:
        bits = scales(count)
        bits[: len(EXTREMES)] = rng.permutation(EXTREMES)
        raw[:, place:place + 2] = bits.view(np.uint8).reshape(count, 2)
    raw[-1, :] = 0
    raw[-2, :] = 255
    for place in places:
        raw[-2, place:place + 2] = (0xFF, 0x3B)  # just below 1, with every other bit set
    values = np.ascontiguousarray(gguf.quants.dequantize(raw.reshape(-1), ty)).astype(np.float32).reshape(-1)
    assert np.isfinite(values).all()
    (HERE / f"{ty.name}.stored").write_bytes(raw.tobytes())
    (HERE / f"{ty.name}.f32").write_bytes(values.tobytes())
    (HERE / f"{ty.name}.bf16").write_bytes(bf16(values.reshape(1, -1)).tobytes())
