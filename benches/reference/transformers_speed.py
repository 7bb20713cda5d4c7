#!/usr/bin/env python3
"""transformers' speed in bf16, asked line by line by `cargo run --release -p benches -- engine --python PYTHON`.

    pip install torch==2.11.0 transformers==5.23.0 safetensors
    python transformers_speed.py MODEL --threads 2

Prints one JSON object with the versions, then answers each line of stdin with one: `decode SESSIONS` gives the median
seconds of a step from position 256, `prefill ROWS [CHUNK]` the seconds of one forward pass over ROWS tokens with logits
of the last one only. transformers takes a prompt whole, so CHUNK is not used. Static sizes, no sampling, eager and SDPA
as transformers chooses by itself.
"""
import argparse
import json
import statistics
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

KV = 256
STEPS = 10


def tokens(model, sessions, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (sessions, rows), generator=generator)


def decode(model, sessions):
    cache = DynamicCache(config=model.config)
    model(tokens(model, sessions, KV, 1), past_key_values=cache, use_cache=True, logits_to_keep=1)
    seconds = []
    for step in range(STEPS):
        given = tokens(model, sessions, 1, 2 + step)
        begun = time.perf_counter()
        model(given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[2:])


def prefill(model, rows):
    given = tokens(model, 1, rows, 3)
    begun = time.perf_counter()
    model(given, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({**versions, "attention": model.config._attn_implementation}), flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            what, number = line.split()[:2]
            seconds = {"decode": decode, "prefill": prefill}[what](model, int(number))
            print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
