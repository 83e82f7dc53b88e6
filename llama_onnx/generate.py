"""The token loop: generates the tokens that continue a prompt."""

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
    """Yield tokens that continue a prompt, until an end token, or until prompt and output have `limit` tokens.

    The common prefix of the prompt and the cache (of one row) is not computed again. `timing` is kept up to date.
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
                with decoder.guard:
                    table.grow(lookup.bytes_for(len(history)))
            logits = decoder.forward([ids], cache, every_position=bool(drafted))[0]
            # Each position predicts the next token. If a drafted token differs, the positions after it are dropped.
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
    """Return why a sequence of `length` tokens ends with `token`, or None if it goes on."""
    if token in config.eos_token_ids:
        return "stop"
    return "length" if length >= limit else None


def _draft_room(config: ModelConfig, length: int, limit: int) -> int:
    """Return how many tokens may be drafted: the cache must hold them, and the rope factors must not change."""
    switch = config.rope_switch_length
    return min(limit - 1, switch if switch is not None and length <= switch else limit) - length
