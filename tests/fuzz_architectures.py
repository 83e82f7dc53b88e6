#!/usr/bin/env python3
"""Compare random configurations of every family with transformers. Needs torch and transformers; not run by pytest.

    python tests/fuzz_architectures.py [COUNT [FIRST_SEED]]

Each is exported in both styles and run in one pass, in chunks and token by token, across windows and rope boundaries.
Prints the runs whose logits differ by more than 1e-3 or whose greedy tokens differ, and the largest difference of each
family.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from make_fixtures import GREEDY_STEPS, make, make_classic

from llama_onnx.decoder import Decoder
from llama_onnx.export.exporter import export
from llama_onnx.kv_cache import KVCache
from llama_onnx.model_directory import read_config
from llama_onnx.pool import MemoryPool

FAMILIES = "Llama Mistral Phi3 Gemma Gemma2 Gemma3Text Qwen2 Qwen3 Nemotron".split()
ALLOWED = 1e-3
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random_rope(r: random.Random, dim: int, kinds: list[str]) -> dict[str, Any]:
    """Return rope parameters for `dim` rotated dimensions."""
    kind = r.choice(kinds)
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": r.choice([10000.0, 500000.0, 150.0])}
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        rope["factor"] = r.choice([2.0, 4.0, 8.0])
    if kind in ("llama3", "yarn", "longrope"):
        rope["original_max_position_embeddings"] = r.choice([24, 40, 64])
    if kind == "llama3":
        rope.update(low_freq_factor=1.0, high_freq_factor=4.0)
    if kind == "yarn":
        extras: list[dict[str, Any]] = [
            {},
            {"attention_factor": 1.3},
            {"mscale": 1.0, "mscale_all_dim": 0.7},
            {"beta_fast": 16.0},
        ]
        rope.update(r.choice(extras))
    if kind == "longrope":
        for name, top in (("short_factor", 1.3), ("long_factor", 8.0)):
            rope[name] = [round(r.uniform(1, top), 3) for _ in range((dim + 1) // 2)]
        rope.update(r.choice([{}, {"factor": 4.0}, {"attention_factor": 1.2}]))
    return rope


def random_config(r: random.Random, family: str) -> Any:
    """Return a small configuration of a family, whose sizes are not round numbers."""
    heads, context = r.choice([1, 2, 3, 4, 6, 8]), r.choice([128, 200])
    head_dim = r.choice([8, 16, 20, 24, 32, 48])
    free = family not in ("Phi3", "Qwen2")  # its configuration has a head_dim
    hidden = heads * (r.choice([4, 7, 12]) if free else head_dim)
    values: dict[str, Any] = {
        "hidden_size": hidden, "intermediate_size": r.choice([40, 64, 130]), "num_hidden_layers": r.choice([1, 2, 3]),
        "num_attention_heads": heads, "num_key_value_heads": r.choice([n for n in (1, 2, 3, heads) if heads % n == 0]),
        "vocab_size": r.choice([96, 101]), "max_position_embeddings": context, "tie_word_embeddings": r.random() < 0.4,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    layers = values["num_hidden_layers"]
    if free:
        values["head_dim"] = head_dim
    kinds, dim, partial = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"], head_dim, 1.0
    if family in ("Phi3", "Nemotron"):
        partial = r.choice([1.0, 0.75, 0.5])
        dim = int(head_dim * partial)
    if family == "Phi3":
        kinds = ["default", "longrope"]
    rope = random_rope(r, dim, kinds)
    values["rope_parameters"] = {**rope, "partial_rotary_factor": partial} if partial != 1 else rope
    window = r.choice([1, 3, 8, 17, 40, 500])
    if family == "Phi3":
        values["original_max_position_embeddings"] = rope.get("original_max_position_embeddings", 64)
    if family in ("Mistral", "Phi3"):
        values["sliding_window"] = r.choice([None, window])
    if family in ("Qwen2", "Qwen3"):
        values.update(use_sliding_window=r.random() < 0.5, sliding_window=window, max_window_layers=r.choice([0, 1, 2]))
    if family in ("Gemma2", "Gemma3Text"):
        types = [r.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
        values.update(sliding_window=window, query_pre_attn_scalar=r.choice([13, 144]), layer_types=types)
        values["final_logit_softcapping"] = r.choice([None, 5.0, 30.0])
    if family == "Gemma2":
        values["attn_logit_softcapping"] = r.choice([None, 5.0, 50.0])
    if family == "Gemma3Text":
        local = {"rope_type": "default", "rope_theta": 10000.0}
        values["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    if family not in ("Mistral", "Phi3", "Qwen2"):
        values["attention_bias"] = r.random() < 0.4
    if family in ("Llama", "Nemotron"):
        values.update(mlp_bias=r.random() < 0.4, hidden_act=r.choice(["silu", "gelu", "relu2", "gelu_new"]))
    return getattr(transformers, f"{family}Config")(**values)


def differences(fixture: Path, out: Path, style: str) -> tuple[list[float], bool]:
    """Return max |Δlogit| in one pass, in chunks and token by token, and whether greedy tokens are equal."""
    with contextlib.redirect_stderr(io.StringIO()):
        export(fixture, out, ops=style)
    config = read_config(out)
    pool, expected = MemoryPool(config.shards, 1 << 30), np.load(fixture / "expected.npz")
    ids, logits, found = expected["ids"], expected["logits"], []
    for chunk in (512, 7):
        found.append(float(np.abs(Decoder(config, pool, chunk).logits(ids) - logits).max()))
    decoder, cache, worst = Decoder(config, pool), KVCache(config, len(ids) + GREEDY_STEPS), 0.0
    switch = config.rope_switch_length or len(ids)
    for i, token in enumerate(ids):
        last = decoder.forward(np.array([[token]]), cache)[0, -1]
        if len(ids) <= switch or i >= switch:  # otherwise the expected logits use the long factors
            worst = max(worst, float(np.abs(last - logits[i]).max()))
    tokens: list[int] = []
    for _ in range(GREEDY_STEPS):
        tokens.append(int(last.argmax()))
        last = decoder.forward(np.array([tokens[-1:]]), cache)[0, -1]
    return [*found, worst], tokens == expected["greedy"].tolist()


def main(count: int = 45, first: int = 0) -> int:
    """Try `count` configurations and return the number of runs that differ."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    largest, wrong = dict.fromkeys(FAMILIES, 0.0), 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            r, family = random.Random(seed), FAMILIES[seed % len(FAMILIES)]
            fixture = Path(folder) / f"{family}-{seed}"
            config = random_config(r, family)
            length = r.choice([30, 60, config.max_position_embeddings - GREEDY_STEPS])
            make(fixture, config, r.choice(DTYPES), length)
            if r.random() < 0.5:
                make_classic(fixture / "config.json")
            for style in ("ort", "onnx"):
                found, greedy = differences(fixture, Path(folder) / f"out-{seed}-{style}", style)
                largest[family] = max(largest[family], *found)
                if max(found) > ALLOWED or not greedy:
                    wrong += 1
                    print(fixture.name, style, found, "greedy tokens", "equal" if greedy else "differ")
                    print(json.dumps(json.loads((fixture / "config.json").read_text())))
    print({family: f"{value:.1e}" for family, value in largest.items()}, f"{wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
