"""The token loop: from a prompt's tokens to those that continue it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from .config import ModelConfig
from .decoder import Decoder
from .decoding.lookup import PromptLookup
from .kv_cache import KVCache
from .sampling import SamplingParams, sample
from .tokens import Timing, Token


def generate_tokens(
    decoder: Decoder, cache: KVCache, prompt: Sequence[int], params: SamplingParams, limit: int, timing: Timing
) -> Iterator[Token]:
    """Yield tokens that continue a prompt, until an end token or `limit` tokens in all.

    The prompt is not computed again as far as the cache, of one row, begins with it. `timing` is filled in on the way.
    """
    config, history = decoder.config, list(prompt)
    rng = np.random.default_rng(params.seed)
    lookup = PromptLookup(params.prompt_lookup) if params.prompt_lookup else None
    drafted: list[int] = []
    started = time.perf_counter()
    cache.truncate(min(cache.common_prefix(prompt), len(prompt) - 1))
    timing.reused_tokens = cache.length
    ids = history[cache.length :]
    with decoder.pool.reserved() as table:
        while True:
            if lookup:
                table.grow(lookup.bytes_for(len(history)))
            logits = decoder.forward([ids], cache, every_position=bool(drafted))[0]
            # Each position says which token comes after it; a drafted token that is another ends the pass's use.
            for place, scores in enumerate(logits):
                token, logprob = sample(scores, params, rng, history)
                history.append(token)
                timing.take(len(prompt), time.perf_counter() - started)
                reason = finish_reason(token, len(history), limit, config)
                yield Token(token, logprob, reason)
                if reason:
                    return
                if place < len(drafted) and drafted[place] != token:
                    break
            cache.truncate(len(history) - 1)
            if lookup:
                lookup.learn(len(drafted), place)
                timing.drafted, timing.accepted = lookup.drafted, lookup.accepted
                drafted = lookup.draft(history, _draft_room(config, len(history), limit))
            ids = [token, *drafted]


def finish_reason(token: int, length: int, limit: int, config: ModelConfig) -> str | None:
    """Return why a sequence of `length` tokens ends with its last one, if it does."""
    if token in config.eos_token_ids:
        return "stop"
    return "length" if length >= limit else None


def _draft_room(config: ModelConfig, length: int, limit: int) -> int:
    """Return how many tokens may be drafted: the cache holds them, and they keep the rope factors."""
    switch = config.rope_switch_length
    return min(limit - 1, switch if switch is not None and length <= switch else limit) - length
