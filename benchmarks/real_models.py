#!/usr/bin/env python3
"""Real models from GGUF files: quality against the file in float32, size, and speed beside llama.cpp.

    python tests/real/models.py REAL_MODELS
    python benchmarks/real_models.py REAL_MODELS --json docs/real_models.json

Quality is the KL divergence of the next token, over four texts (prose, code, French, Chinese) in windows of 500
tokens, from the same file dequantised to float32; that of llama.cpp is measured too. Engines take turns in every round,
each in its own process, and are suspended while others run; figures are medians. llama.cpp is what the packages
xllamacpp and llama-cpp-python have; what is not installed is left out. Exports are kept in REAL_MODELS/exports.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from divergence import Logits
from engine import Engine, random_prompt
from peer_logits import gguf_logits
from peer_models import installed
from report import about, save, table

import llama_onnx
from llama_onnx.export.compare.metrics import kl_divergence, log_softmax
from llama_onnx.export.exporter import export
from llama_onnx.model_directory import read_config

TEXTS = Path(__file__).parent / "texts"
WINDOW, SHORTEST = 500, 100  # tokens
PROMPT, NEW = 128, 64
PEERS = ("xllamacpp", "llama_cpp")


def windows(lm: llama_onnx.LanguageModel) -> Iterator[list[int]]:
    """Yield the tokens of the texts in windows; what is left over at the end of a text counts if it is long enough."""
    for path in sorted(TEXTS.glob("*.txt")):
        ids = lm.tokenizer.encode(path.read_text(encoding="utf-8"))
        for start in range(0, len(ids), WINDOW):
            if len(window := ids[start : start + WINDOW]) >= SHORTEST:
                yield window


def compared(wanted: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each position, the KL divergence from log-probabilities, and whether the likeliest token is equal."""
    found = log_softmax(logits)
    return kl_divergence(wanted, found), wanted.argmax(-1) == found.argmax(-1)


def divergence(reference: Path, folders: dict[str, Path], file: Path) -> dict[str, dict[str, float]]:
    """Return the mean KL divergence in nats of each model from a reference, and the share of equal likeliest tokens.

    llama.cpp with the GGUF file is one of them where llama-cpp-python is installed.
    """
    with ExitStack() as stack:
        expected = stack.enter_context(llama_onnx.load(reference, ctx_size=WINDOW))
        logits: dict[str, Logits] = {
            name: stack.enter_context(llama_onnx.load(path, ctx_size=WINDOW)).logits for name, path in folders.items()
        }
        if installed("llama_cpp"):
            logits["llama_cpp"] = gguf_logits(file, WINDOW)
        losses: dict[str, list[np.ndarray]] = {name: [] for name in logits}
        same: dict[str, list[np.ndarray]] = {name: [] for name in logits}
        for ids in map(np.array, windows(expected)):
            wanted = log_softmax(expected.logits(ids))
            for name, function in logits.items():
                loss, agreed = compared(wanted, function(ids))
                losses[name].append(loss)
                same[name].append(agreed)
    return {
        name: {
            "kl": float(np.concatenate(losses[name]).mean()),
            "same_token": float(np.concatenate(same[name]).mean()),
            "tokens": sum(map(len, losses[name])),
        }
        for name in logits
    }


def made(source: Path, folder: Path, dtype: str) -> Path:
    """Return the export of a file in some precision, made unless it is there."""
    out = folder / f"{source.stem}-{dtype}"
    if not out.is_dir():
        export(source, out, dtype)
    return out


def size(folder: Path) -> int:
    """Return the bytes of the files of a model directory."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def speeds(sides: dict[str, dict[str, Any]], vocabulary: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the medians of prefill and decode in tokens per second for each engine; they take turns."""
    prompt = random_prompt(PROMPT, vocabulary)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(Engine(threads=2, ctx=PROMPT + NEW + 8, **side)) for name, side in sides.items()
        }
        for number in range(rounds + 1):
            for name in list(engines)[:: 1 if number % 2 else -1]:
                answer = engines[name].ask(prompt=prompt, new=NEW)
                if number:  # the first round warms up
                    rates = PROMPT / answer["prompt_seconds"], (answer["new"] - 1) / answer["new_seconds"]
                    found[name].append(rates)
    return {
        name: dict(zip(("prefill", "decode"), np.median(rates, 0).tolist(), strict=True))
        for name, rates in found.items()
    }


def main() -> None:
    """Measure, print the tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, metavar="REAL_MODELS", help="folder of GGUF files")
    parser.add_argument("--dtypes", nargs="+", default=["auto"], help="precisions to measure")
    parser.add_argument("--only", choices=("quality", "speed"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures: dict[str, Any] = {"about": about(), "models": {}}
    rows = []
    for source in sorted(args.models.glob("*.gguf"), key=lambda path: path.stat().st_size):
        folders = {dtype: made(source, args.models / "exports", dtype) for dtype in args.dtypes}
        quality = (
            {} if args.only == "speed" else divergence(made(source, args.models / "exports", "fp32"), folders, source)
        )
        sides: dict[str, dict[str, Any]] = {d: {"engine": "ours", "path": str(f)} for d, f in folders.items()}
        sides |= {peer: {"engine": peer.replace("_", "."), "path": str(source)} for peer in PEERS if installed(peer)}
        vocabulary = read_config(next(iter(folders.values()))).vocab_size
        speed = {} if args.only == "quality" else speeds(sides, vocabulary, args.rounds)
        figures["models"][source.stem] = {
            name: {
                "bytes": size(folders[name]) if name in folders else source.stat().st_size,
                **quality.get(name, {}),
                **speed.get(name, {}),
            }
            for name in sides
        }
        for name, found in figures["models"][source.stem].items():
            share = found["bytes"] / source.stat().st_size
            cells = [f"{found[key]:.4g}" if key in found else "" for key in ("kl", "same_token", "decode", "prefill")]
            rows.append((source.stem, name, f"{found['bytes'] / 1e6:.0f} MB", f"{share:.2f}", *cells))
        print(table(("model", "engine", "on disk", "of the file", "KL", "same token", "decode", "prefill"), rows), "\n")
    save(args.json, figures)


if __name__ == "__main__":
    main()
