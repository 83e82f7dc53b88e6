#!/usr/bin/env python3
"""The quality of a smaller KV cache: KL divergence from the float32 cache, and bytes per token.

    python benchmarks/kv_cache.py MODEL [--text FILE] [--window 256] [--windows 16] [--step 4] [--json FILE]

The first half of each window is one pass, like a prompt. The second half is processed `--step` tokens at a time, as in
generation, so that attention reads compressed keys and values. The logits of the second half are compared. Without
`--text`, the model generates the text itself, at temperature 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from report import about, save, table

import llama_onnx
from llama_onnx import LanguageModel, SamplingParams
from llama_onnx.commands.terminal import guard
from llama_onnx.errors import RequestError
from llama_onnx.export.compare.metrics import Distribution
from llama_onnx.kv_cache import KVCache
from llama_onnx.kv_types import CACHE_TYPES
from llama_onnx.memory import format_size


def measure(lm: LanguageModel, windows: np.ndarray, step: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each cache type over windows of tokens, int64 [windows, S]."""
    prompt = windows.shape[1] // 2
    found = {cache_type: Distribution() for cache_type in CACHE_TYPES}
    for window in windows:
        reference = later_logits(lm, window, prompt, step, CACHE_TYPES[0])
        for cache_type, divergence in found.items():
            logits = later_logits(lm, window, prompt, step, cache_type)
            divergence.add(reference[:-1], logits[:-1], window[prompt + 1 :])
    figures = {}
    for cache_type, divergence in found.items():
        divergence.close()
        figures[cache_type] = {
            "bytes_per_token": KVCache(lm.config, 1, cache_type=cache_type).bytes_per_token,
            **divergence.summary(),
        }
    return figures


def later_logits(lm: LanguageModel, window: np.ndarray, prompt: int, step: int, cache_type: str) -> np.ndarray:
    """Return float32 [S - prompt, vocab]: the logits from position `prompt` on, computed `step` tokens per pass."""
    cache = KVCache(lm.config, len(window), cache_type=cache_type)
    lm.decoder.forward(window[None, :prompt], cache)
    passes = (window[None, start : start + step] for start in range(prompt, len(window), step))
    return np.concatenate([lm.decoder.forward(ids, cache, every_position=True)[0] for ids in passes])


def read_tokens(lm: LanguageModel, text: Path, count: int) -> list[int]:
    """Return the first `count` tokens of a text.

    Raises:
        RequestError: the text has fewer tokens.
    """
    ids = lm.tokenizer.encode(text.read_text(encoding="utf-8"))
    if len(ids) < count:
        raise RequestError(f"{text}: has {len(ids)} tokens, but the windows need {count}; use fewer or shorter windows")
    return ids[:count]


def written_tokens(lm: LanguageModel, count: int) -> list[int]:
    """Return `count` tokens that the model generates, one text after another."""
    ids: list[int] = []
    start = lm.tokenizer.encode("", add_bos=True) or [0]
    while len(ids) < count:
        params = SamplingParams(temperature=1.0, top_k=0, max_tokens=count, seed=len(ids))
        ids += [*start, *(step.token for step in lm.stream_generate(start, params))]
    return ids[:count]


def lines(figures: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the lines of the table."""
    return [
        [
            name, format_size(f["bytes_per_token"]), f"{f['kl']['mean']:.1e} ± {f['kl']['mean_error']:.0e}",
            f"{f['kl']['max']:.1e}", f"{100 * f['same_top']:.2f} %", f"{f['perplexity_ratio']:.5f}",
        ]
        for name, f in figures.items()
    ]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    lm = llama_onnx.load(options.model)
    if not 4 <= options.window <= lm.context or min(options.windows, options.step) < 1:
        raise RequestError(f"--window must be 4 to {lm.context}; --windows and --step must be at least 1")
    count = options.window * options.windows
    ids = read_tokens(lm, options.text, count) if options.text else written_tokens(lm, count)
    figures = measure(lm, np.array(ids, np.int64).reshape(options.windows, options.window), options.step)
    print(table(("cache", "bytes per token", "KL mean", "KL max", "same top", "perplexity ratio"), lines(figures)))
    save(options.json, {"about": about(), "caches": figures})


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="model directory")
    parser.add_argument("--text", type=Path, metavar="FILE", help="text to read (default: the model generates it)")
    parser.add_argument("--window", type=int, default=256, metavar="N", help="tokens per window (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=16, metavar="N", help="number of windows (default: %(default)s)")
    parser.add_argument("--step", type=int, default=4, metavar="N", help="tokens per pass (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return guard(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
