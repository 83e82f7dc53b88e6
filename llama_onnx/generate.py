"""From a prompt to tokens, from tokens to text: the token loop and the text stream over it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from .config import ModelConfig
from .decoder import Decoder
from .decoding.lookup import PromptLookup
from .errors import RequestError
from .sampling import SamplingParams, sample
from .tokens import Timing, Token


def generate_tokens(
    decoder: Decoder,
    prompt: Sequence[int],
    params: SamplingParams,
    context: int | None = None,
    timing: Timing | None = None,
) -> Iterator[Token]:
    """Yield tokens that continue a prompt.

    Args:
        decoder: runs the model.
        prompt: token ids.
        params: how to sample and when to stop.
        context: the most tokens of prompt and output together; None means the model's own limit.
        timing: filled in as the generation goes.

    Raises:
        RequestError: the prompt is empty, holds ids out of range or fills the context.
    """
    config = decoder.config
    context = min(context or config.context_length, config.context_length)
    check_prompt(prompt, config.vocab_size, context)
    timing = timing if timing is not None else Timing()
    cache = decoder.new_cache(min(context, len(prompt) + params.max_tokens))
    rng = np.random.default_rng(params.seed)
    history = list(prompt)
    lookup, drafted = PromptLookup(params.prompt_lookup), list[int]()
    ids = history
    started = time.perf_counter()
    try:
        while True:
            logits = decoder.forward(np.array([ids], np.int64), cache, every_position=bool(drafted))[0]
            # Each position says which token comes after it; a drafted token that is another ends the pass's use.
            for place, scores in enumerate(logits):
                token, logprob = sample(scores, params, rng, history)
                history.append(token)
                _take_time(timing, len(prompt), time.perf_counter() - started)
                reason = finish_reason(token, len(history), cache.capacity, config)
                yield Token(token, logprob, reason)
                if reason:
                    return
                if place < len(drafted) and drafted[place] != token:
                    break
            cache.truncate(len(history) - 1)
            lookup.learn(len(drafted), place)
            timing.drafted, timing.accepted = lookup.drafted, lookup.accepted
            drafted = lookup.draft(history, _draft_room(config, len(history), cache.capacity))
            ids = [token, *drafted]
    finally:
        decoder.pool.reserve(0)


def finish_reason(token: int, length: int, capacity: int, config: ModelConfig) -> str | None:
    """Return why a sequence of `length` tokens ends with its last one, if it does."""
    if token in config.eos_token_ids:
        return "stop"
    return "length" if length >= capacity else None


def check_prompt(prompt: Sequence[int], vocab_size: int, context: int) -> None:
    """Raise RequestError unless a prompt has tokens, all in the vocabulary, and leaves room for one more."""
    if len(prompt) == 0:
        raise RequestError("the prompt is empty; give some text")
    for token in prompt:
        if not 0 <= token < vocab_size:
            raise RequestError(f"token id {token} is not in the vocabulary of {vocab_size}")
    if len(prompt) >= context:
        raise RequestError(
            f"the prompt has {len(prompt)} tokens, the context holds {context} with the answer; shorten the prompt"
        )


def _draft_room(config: ModelConfig, length: int, capacity: int) -> int:
    """Return how many tokens after `length` may be drafted: the cache holds them, and they keep the rope factors."""
    switch = config.rope_switch_length
    return min(capacity - 1, switch if switch is not None and length <= switch else capacity) - length


def _take_time(timing: Timing, prompt_tokens: int, seconds: float) -> None:
    timing.new_tokens += 1
    timing.decoded = timing.new_tokens - 1
    if timing.new_tokens == 1:
        timing.prompt_tokens, timing.prompt_seconds = prompt_tokens, seconds
    timing.decode_seconds = seconds - timing.prompt_seconds
