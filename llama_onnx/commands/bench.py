"""`bench`: how fast a model runs here, and `pack`: what makes streaming it fast, made ahead."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import RequestError
from ..memory import format_size
from ..model import LanguageModel, load
from ..model_directory import read_config
from ..streaming.images import Images, Progress


def measure(lm: LanguageModel, prompt_tokens: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Return medians over `repeats` runs of a random prompt and greedy tokens after it, without lookup.

    `first_token_seconds` is of the first run, which loads the shards; rates are in tokens per second, memory in bytes.

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


def add_verbs(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    add_runtime: Callable[..., None],
    progress: Progress,
) -> None:
    """Add `bench` and `pack` to the command line."""
    verb = verbs.add_parser(
        "bench",
        help="how fast a model runs here",
        description="Time to the first token, prefill and decode speed, peak memory: medians over several runs.",
        epilog="example: llama-onnx bench -m models/alpaca --poolsize 2",
    )
    verb.set_defaults(run=lambda options: _bench(options, progress))
    verb.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    verb.add_argument("-p", "--prompt-tokens", type=int, default=128, metavar="N", help="default: %(default)s")
    verb.add_argument("-n", "--new-tokens", type=int, default=32, metavar="N", help="default: %(default)s")
    verb.add_argument("-r", "--repeats", type=int, default=3, metavar="N", help="default: %(default)s")
    verb.add_argument("--json", action="store_true", help="print JSON")
    add_runtime(verb, cache_type=True)
    verb = verbs.add_parser(
        "pack",
        help="make ahead what streaming a quantised model needs",
        description="Write the layers as they are packed for this CPU, so that loading one is a single read.",
        epilog="example: llama-onnx pack models/alpaca",
    )
    verb.set_defaults(run=lambda options: _pack(options, progress))
    verb.add_argument("model", metavar="DIR", help="model directory")


def _bench(options: argparse.Namespace, progress: Progress) -> None:
    lm = load(
        options.model, poolsize=options.poolsize, ctx_size=options.ctx_size, threads=options.threads,
        pool_policy=options.pool_policy, progress=progress, cache_type=options.cache_type,
    )  # fmt: skip
    figures = measure(lm, options.prompt_tokens, options.new_tokens, options.repeats)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    pool = figures["pool"]
    uses = pool["hits"] + pool["misses"]
    for name, value in (
        ("first token", f"{figures['first_token_seconds']:.2f} s with loading"),
        ("prefill", f"{figures['prefill_tokens_per_second']:.1f} tok/s, {figures['prompt_tokens']} tokens"),
        ("decode", f"{figures['decode_tokens_per_second']:.2f} tok/s, {figures['new_tokens']} tokens"),
        ("pool", f"{100 * pool['hits'] / uses:.0f} % hits, {format_size(pool['loaded_bytes'])} loaded"),
        ("peak memory", format_size(figures["peak_memory"])),
    ):
        print(f"{name:12} {value}")


def _pack(options: argparse.Namespace, progress: Progress) -> None:
    config = read_config(options.model)
    if not any(shard.quantized for shard in config.layers):
        print("nothing to pack: the layers are not quantised", file=sys.stderr)
        return
    Images(config).make_all(config.layers, progress)
