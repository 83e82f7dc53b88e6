#!/usr/bin/env python3
"""Compare the measured memory of one pass, without the weights, with the result of `pass_bytes`.

    python benchmarks/pass_memory.py [--json FILE]

Small random models of each kind of attention are made first. Each case runs in its own process: it loads the
model, warms it up, and compares the growth of the resident memory to its peak during one pass with what the pass
reserves: `pass_bytes`, and the bytes of the KV cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np
from report import about, save, table

CONTEXT = 32768
SIZES = {
    "vocab_size": 320, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": CONTEXT,
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], str]] = {  # what config.json says, and the style of operators
    "plain": ({"model_type": "llama"}, "ort"),
    "windowed": ({"model_type": "mistral", "sliding_window": 512}, "ort"),
    "soft-capped": (
        {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 16, "sliding_window": 4096,
         "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "final_logit_softcapping": 30.0}, "ort"),
    "standard operators": ({"model_type": "llama"}, "onnx"),
    "original layout": ({"model_type": "llama", "num_key_value_heads": 16}, "original"),
}  # fmt: skip
CASES = ((64, 512), (512, 512), (512, CONTEXT), (2048, 2048), (2048, CONTEXT), (8192, CONTEXT))  # tokens, capacity


def make_model(kind: str, folder: Path) -> Path:
    """Write a random model of a kind, and return its directory."""
    from helpers import make_tokenizer
    from llama_onnx_layout import FLOAT, write_layout
    from safetensors.numpy import save_file

    from llama_onnx.export.exporter import export
    from llama_onnx.export.families.registry import read_spec
    from llama_onnx.export.families.spec import EMBEDDING, HEAD, expected_names

    changes, style = KINDS[kind]
    config = {
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False, **SIZES, **changes,
    }  # fmt: skip
    spec = read_spec(config)
    shapes = {EMBEDDING: (spec.vocab_size, spec.hidden_size), HEAD: (spec.vocab_size, spec.hidden_size)}
    for i in range(spec.num_layers):
        for projection in spec.projections.values():
            shapes[f"model.layers.{i}.{projection.tensor}.weight"] = projection.tensor_rows, projection.columns
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shapes.get(name, (spec.hidden_size,)), np.float32) * 0.05
        for name in sorted(expected_names(spec))
    }
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    save_file(tensors, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text(json.dumps(config))
    make_tokenizer(checkpoint / "tokenizer.model")
    if style == "original":
        return write_layout(checkpoint, folder / "model", FLOAT, True)
    export(checkpoint, folder / "model", ops=style)
    return folder / "model"


def measure(directory: str, tokens: int, capacity: int) -> tuple[int, int]:
    """Return the bytes by which this process grows in a pass over a prompt, and the bytes that the pass reserves."""
    from llama_onnx import load
    from llama_onnx.memory import peak_bytes, process_bytes, trim

    lm = load(directory)
    decoder, context = lm.decoder, lm.config.context_length
    ids = np.arange(tokens)[None] % 300
    warm = decoder.new_cache(16)
    decoder.forward(ids[:, :8], warm)
    warm.close()
    cache = decoder.new_cache(min(capacity, context))
    trim()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = process_bytes()
    decoder.forward(ids, cache)
    return peak_bytes() - before, int(decoder.pool.snapshot()["reserved"])


def in_a_process(directory: Path, tokens: int, capacity: int) -> tuple[int, int]:
    """Return what `measure` does, in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(directory), str(tokens), str(capacity)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown, reserved = json.loads(done.stdout)
    return grown, reserved


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; repeatable (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--measure", nargs=3, metavar=("DIR", "TOKENS", "CAPACITY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]), int(options.measure[2]))))
        return
    rows: list[tuple[str, int, int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kind or KINDS:
            directory = make_model(kind, Path(folder, kind.replace(" ", "-")))
            for tokens, capacity in CASES:
                if kind == "original layout" and tokens > 2048:
                    continue
                grown, reserved = in_a_process(directory, tokens, capacity)
                rows.append((kind, tokens, capacity, grown, reserved))
    header = ("attention", "prompt", "capacity", "measured", "formula")
    print(table(header, [(*row[:3], *(f"{size / 2**20:.1f} MB" for size in row[3:])) for row in rows]))
    save(options.json, {"about": about(), "cases": [dict(zip(header, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
