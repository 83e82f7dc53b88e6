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
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np
from report import about, save, table

CONTEXT = 32768
SIZES = {
    "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": CONTEXT,
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], str]] = {  # what config.json says, and the style of operators
    "plain": ({"model_type": "llama"}, "ort"),
    "windowed": ({"model_type": "mistral", "sliding_window": 512}, "ort"),
    "soft-capped": (
        {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 16, "sliding_window": 4096,
         "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "final_logit_softcapping": 30.0,
         "num_attention_heads": 32}, "ort"),
    "standard operators": ({"model_type": "llama"}, "onnx"),
    "original layout": ({"model_type": "llama", "num_key_value_heads": 16}, "original"),
}  # fmt: skip


class Case(NamedTuple):
    """A pass to measure: new tokens of each row, with `past` tokens in a cache of `capacity`."""

    tokens: int
    capacity: int
    rows: int = 1
    past: int = 0
    every_position: bool = False
    chunk: int | None = None  # None for the model's own


CASES = [
    Case(64, 512), Case(512, 512), Case(512, CONTEXT), Case(2048, 2048), Case(2048, CONTEXT), Case(8192, CONTEXT),
    Case(2048, 2048, chunk=64), Case(1024, 1024, every_position=True, chunk=64), Case(1, 2048, rows=8, past=1000),
]  # fmt: skip


def make_model(kind: str, folder: Path) -> Path:
    """Write a random model of a kind, and return its directory."""
    from llama_onnx_layout import FLOAT, write_layout
    from random_checkpoint import pieces
    from safetensors.numpy import save_file

    from llama_onnx.export.exporter import export
    from llama_onnx.export.families.registry import read_spec
    from llama_onnx.export.families.spec import EMBEDDING, HEAD, expected_names
    from llama_onnx.export.readers.sentencepiece_model import sentencepiece_model

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
    (checkpoint / "tokenizer.model").write_bytes(sentencepiece_model(pieces(spec.vocab_size)))
    if style == "original":
        return write_layout(checkpoint, folder / "model", FLOAT, True)
    export(checkpoint, folder / "model", ops=style)
    return folder / "model"


def measure(directory: str, cases: list[Case]) -> list[tuple[int, int]]:
    """Return for each pass the bytes by which this process grows, and the bytes that the pass reserves."""
    from llama_onnx import load
    from llama_onnx.memory import peak_bytes, process_bytes, trim

    lm = load(directory)
    decoder, context, chunk = lm.decoder, lm.config.context_length, lm.decoder.chunk
    ids = (np.arange(CONTEXT) % 300).tolist()
    with closing(decoder.new_cache(16)) as warm:
        decoder.forward([ids[:8]], warm)
    figures = []
    for case in cases:
        with closing(decoder.new_cache(min(case.capacity, context), case.rows)) as cache:
            decoder.chunk = case.chunk or chunk
            trim()
            before = process_bytes()
            if case.past:
                decoder.forward([ids[: case.past]] * case.rows, cache)
                trim()
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
            decoder.forward([ids[: case.tokens]] * case.rows, cache, case.every_position)
            figures.append((peak_bytes() - before, int(decoder.pool.snapshot()["reserved"])))
    return figures


def in_a_process(directory: Path, cases: list[Case]) -> list[tuple[int, int]]:
    """Return the results of `measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(directory), json.dumps(cases)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [(grown, reserved) for grown, reserved in json.loads(done.stdout)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; repeatable (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--measure", nargs=2, metavar=("DIR", "CASES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], [Case(*case) for case in json.loads(options.measure[1])])))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kind or KINDS:
            directory = make_model(kind, Path(folder, kind.replace(" ", "-")))
            for case in CASES:
                if kind != "original layout" or case.tokens <= 2048:
                    ((grown, reserved),) = in_a_process(directory, [case])
                    rows.append({"attention": kind, **case._asdict(), "measured": grown, "formula": reserved})
    header = ("attention", "pass", "capacity", "measured", "formula", "ratio")
    print(table(header, [_line(row) for row in rows]))
    save(options.json, {"about": about(), "cases": rows})


def _line(row: dict[str, Any]) -> list[str]:
    what = f"{row['tokens']} tokens" if row["tokens"] > 1 else f"1 token after {row['past']}"
    what += f" of each of {row['rows']} rows" if row["rows"] > 1 else ""
    what += f" in chunks of {row['chunk']}" if row["chunk"] else ""
    what += ", all logits" if row["every_position"] else ""
    sizes = [f"{row[name] / 2**20:.1f} MB" for name in ("measured", "formula")]
    return [row["attention"], what, str(row["capacity"]), *sizes, f"{row['formula'] / row['measured']:.2f}"]


if __name__ == "__main__":
    main()
