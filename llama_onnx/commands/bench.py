"""Measure a model's speed on this machine: time to the first token, prefill and decode speed, pool hits, peak memory.

Speeds are medians over several runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import RequestError
from ..memory import format_size
from ..model import LanguageModel
from .options import add_model, add_runtime, load_model
from .terminal import print_pool

EXAMPLES = """examples:
  %(prog)s
  %(prog)s -m models/alpaca --poolsize 2 --prompt-tokens 256
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_model(parser)
    for names, default, text in (
        (("-p", "--prompt-tokens"), 128, "tokens of the prompt, drawn at random"),
        (("-n", "--new-tokens"), 32, "tokens generated after it"),
        (("-r", "--repeats"), 3, "runs"),
    ):
        parser.add_argument(*names, type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_runtime(parser, cache_type=True)


def run(options: argparse.Namespace) -> None:
    """Measure, and print the figures."""
    lm = load_model(options)
    figures = measure(lm, options.prompt_tokens, options.new_tokens, options.repeats)
    print(json.dumps(figures, indent=1) if options.json else _table(figures))
    if options.verbose:
        print_pool(lm)


def _table(figures: Mapping[str, Any]) -> str:
    pool = figures["pool"]
    uses = pool["hits"] + pool["misses"]
    rows = (
        ("first token", f"{figures['first_token_seconds']:.2f} s with loading"),
        ("prefill", f"{figures['prefill_tokens_per_second']:.1f} tok/s, {figures['prompt_tokens']} tokens"),
        ("decode", f"{figures['decode_tokens_per_second']:.2f} tok/s, {figures['new_tokens']} tokens"),
        ("pool", f"{100 * pool['hits'] / uses:.0f} % hits, {format_size(pool['loaded_bytes'])} loaded"),
        ("peak memory", format_size(figures["peak_memory"])),
    )
    return "\n".join(f"{name:12} {value}" for name, value in rows)


def measure(lm: LanguageModel, prompt_tokens: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Return medians over `repeats` runs of a random prompt with greedy tokens after it, without prompt lookup.

    `first_token_seconds` is from the first run, which loads the shards. Rates are in tokens/s, memory is in bytes.

    Raises:
        RequestError: prompt and new tokens do not fit the context, or a count is below 1.
    """
    if min(prompt_tokens, repeats) < 1 or new_tokens < 2:
        raise RequestError("at least 1 prompt token, 2 new tokens and 1 repeat are needed")
    if prompt_tokens + new_tokens > lm.context:
        raise RequestError(f"{prompt_tokens} + {new_tokens} tokens do not fit the context of {lm.context}")
    prompt = np.random.default_rng(0).integers(0, lm.config.vocab_size, (1, prompt_tokens))
    first, prefill, decode = 0.0, [], []
    for run in range(repeats):
        cache = lm.decoder.new_cache(prompt_tokens + new_tokens)
        times = [time.perf_counter()]
        ids = prompt
        for _ in range(new_tokens):
            logits = lm.decoder.forward(ids, cache)
            ids = np.array([[int(np.argmax(logits[0, -1]))]])
            times.append(time.perf_counter())
        cache.close()
        first = first or times[1] - times[0]
        prefill.append(prompt_tokens / (times[1] - times[0]))
        decode.append((new_tokens - 1) / (times[-1] - times[1]))
        if run == 0 and repeats > 1:  # it loaded the shards
            prefill.clear()
    return {
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "repeats": repeats,
        "first_token_seconds": first,
        "prefill_tokens_per_second": float(np.median(prefill)),
        "decode_tokens_per_second": float(np.median(decode)),
        **{key: lm.stats()[key] for key in ("peak_memory", "pool")},
    }
