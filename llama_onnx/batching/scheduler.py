"""Continuous batching: one pass over the weights gives every running sequence its next token.

A model larger than memory is read from disk once per pass, no matter how many sequences share the pass. A pass borrows
each shard once. The sequences that are decoding go through it together in one run, each row with its own length. A
sequence that is new, or has to be computed again, goes through it in its own run with all its tokens. When a sequence
ends, the next prompt takes its row in the next pass. When memory cannot hold all sequences, the youngest one waits and
is computed again later.

The completion of a prompt does not depend on the other prompts: each sequence has its own random numbers, and its row
sees nothing of the other rows (except where two tokens are equally likely up to rounding). There is no prompt lookup
here: sequences that decode together get one new token each per run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..decoder import Decoder
from ..errors import PoolTooSmallError, RequestError
from ..generate import finish_reason
from ..sampling import SamplingParams, sample
from ..text.prompts import check_params
from ..text.stream import TextStream
from ..tokenizer import Tokenizer
from ..tokens import Completion, Request, Timing, Token

BATCH = 8


@dataclass(frozen=True)
class Report:
    """The state after a pass: prompts finished, in total, in the pass and waiting, and the tokens generated so far."""

    done: int
    total: int
    running: int
    waiting: int
    new_tokens: int


def requests_of(
    prompts: Sequence[Any],
    params: SamplingParams | Sequence[SamplingParams] | None,
    batch: int,
    check: Callable[[Any], list[int]],
    tokenizer: Tokenizer,
) -> list[Request]:
    """Return the requests for `LanguageModel.generate_many`; `check` returns the token ids of a prompt.

    Raises:
        RequestError: a prompt, the params or the batch cannot be used, or there are not as many params as prompts.
    """
    if not isinstance(batch, Integral) or batch < 1:
        raise RequestError(f"batch must be at least 1, not {batch!r:.40}")
    if isinstance(prompts, (str, bytes)) or (not isinstance(prompts, Sequence) and not np.ndim(prompts)):
        raise RequestError(f"prompts must be a list of prompts, not {type(prompts).__name__}")
    if not isinstance(params, Sequence):
        params = [check_params(params, tokenizer).of_prompt(i) for i in range(len(prompts))]
    if len(params) != len(prompts):
        raise RequestError(f"{len(params)} sampling params for {len(prompts)} prompts; give one each, or one for all")
    requests = []
    for i, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
        try:
            requests.append(Request(check(prompt), check_params(one, tokenizer)))
        except RequestError as error:
            raise RequestError(f"prompt {i}: {error}") from None
    return requests


def generate_many(
    decoder: Decoder,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    context: int,
    batch: int = BATCH,
    timing: Timing | None = None,
    report: Callable[[Report], object] = lambda report: None,
) -> Iterator[Completion]:
    """Yield the completion of each prompt, in the order of the prompts.

    Args:
        decoder: runs the model.
        tokenizer: turns its tokens into text.
        requests: the prompts.
        context: the most tokens of a prompt and its output together.
        batch: the most sequences that run at a time, at least 1; fewer run if memory is too small.
        timing: updated after every pass, with the sums over all prompts.
        report: called after every pass.

    Raises:
        PoolTooSmallError: a sequence does not fit even on its own.
    """
    timing = timing if timing is not None else Timing()
    waiting = deque(_Sequence(i, request, context) for i, request in enumerate(requests))
    capacity = max((sequence.limit for sequence in waiting), default=1)
    rows = _Rows(decoder, capacity)
    running: list[_Sequence] = []
    finished: dict[int, Completion] = {}
    done = yielded = 0
    try:
        while running or waiting:
            # 1. Waiting prompts replace the sequences that ended, as far as they fit into memory.
            started = time.perf_counter()
            while waiting and len(running) < batch:
                running.append(waiting.popleft())
            with decoder.guard:
                rows.make_room(running, waiting)

                # 2. One pass over the weights gives each sequence a token.
                decoding = rows.decoding
                for sequence, scores in zip(rows.owners, rows.forward(), strict=True):
                    sequence.take(scores, tokenizer, decoder.config)
            _take_time(timing, running, decoding, time.perf_counter() - started)

            # 3. A completion is yielded as soon as all earlier ones have been.
            finished |= {sequence.index: sequence.completion() for sequence in running if sequence.finish_reason}
            in_pass, running = len(running), [sequence for sequence in running if not sequence.finish_reason]
            done += in_pass - len(running)
            report(Report(done, len(requests), in_pass, len(waiting), timing.new_tokens))
            while yielded in finished:
                yield finished.pop(yielded)
                yielded += 1
    finally:
        rows.cache.close()


class _Sequence:
    """A prompt, and its output so far."""

    def __init__(self, index: int, request: Request, context: int) -> None:
        self.index = index
        self.params = request.params
        self.history = list(request.prompt)
        self.prompt_tokens = len(request.prompt)
        self.limit = min(context, self.prompt_tokens + request.params.max_tokens)
        self.finish_reason: str | None = None
        self._rng = np.random.default_rng(request.params.seed)
        self._stream: TextStream | None = None
        self._texts: list[str] = []

    def take(self, scores: np.ndarray, tokenizer: Tokenizer, config: ModelConfig) -> None:
        """Sample the next token from its scores, float32 [vocab]."""
        self._stream = self._stream or TextStream(tokenizer, self.history, self.params.stop)
        token, logprob = sample(scores, self.params, self._rng, self.history)
        self.history.append(token)
        reason = finish_reason(token, len(self.history), self.limit, config)
        step = self._stream.add(Token(token, logprob, reason))
        self._texts.append(step.text)
        self.finish_reason = step.finish_reason

    def completion(self) -> Completion:
        """Return the completion of a sequence that has ended."""
        assert self.finish_reason is not None
        new_tokens = len(self.history) - self.prompt_tokens
        return Completion(self.index, "".join(self._texts), self.finish_reason, self.prompt_tokens, new_tokens)


class _Rows:
    """Which sequence has which row of the shared cache."""

    def __init__(self, decoder: Decoder, capacity: int) -> None:
        self.owners: list[_Sequence] = []
        self.cache = decoder.new_cache(capacity, rows=0)
        self._decoder = decoder

    @property
    def decoding(self) -> bool:
        """Whether the cache lacks exactly one token of each sequence: then no prompt is computed in the next pass."""
        return all(len(owner.history) - n == 1 for owner, n in zip(self.owners, self.cache.lengths, strict=True))

    def make_room(self, running: list[_Sequence], waiting: deque[_Sequence]) -> None:
        """Give each sequence a row and reserve memory for the next pass; if it is not enough, the youngest wait."""
        while True:
            if len(running) < len(self.owners):  # their memory must be freed before the pool uses it
                self._seat(self._order(running))
            order = self._order(running)
            lengths = [len(sequence.history) for sequence in order]
            counts = [length - self._kept(sequence) for sequence, length in zip(order, lengths, strict=True)]
            try:
                self._decoder.reserve(self.cache, counts, lengths)
                break
            except PoolTooSmallError:
                if len(running) == 1:
                    raise
            youngest = max(running, key=lambda sequence: sequence.index)
            running.remove(youngest)
            waiting.appendleft(youngest)
        self._seat(order)

    def forward(self) -> np.ndarray:
        """Compute the tokens that are not in the cache; return the logits after the last one, float32 [rows, vocab]."""
        new = [owner.history[length:] for owner, length in zip(self.owners, self.cache.lengths, strict=True)]
        return self._decoder.forward(new, self.cache)[:, 0]

    def _kept(self, sequence: _Sequence) -> int:
        """Return how many tokens of a sequence the next pass can take from the cache."""
        if sequence not in self.owners:
            return 0
        row = self.owners.index(sequence)
        same = self._decoder.rope_offset(len(sequence.history)) == self.cache.rope_offsets[row]
        return self.cache.lengths[row] if same else 0

    def _order(self, running: Sequence[_Sequence]) -> list[_Sequence]:
        """Return the sequence of each row. If their number stays the same, new ones take the rows that became free."""
        if len(running) != len(self.owners):
            return list(running)
        new = iter([sequence for sequence in running if sequence not in self.owners])
        return [owner if owner in running else next(new) for owner in self.owners]

    def _seat(self, order: list[_Sequence]) -> None:
        if order != self.owners:
            rows = {id(owner): row for row, owner in enumerate(self.owners)}
            self.cache.rearrange([rows.get(id(sequence)) for sequence in order])
            self.owners = order


def _take_time(timing: Timing, running: Sequence[_Sequence], decoding: bool, seconds: float) -> None:
    timing.new_tokens += len(running)
    timing.prompt_tokens += sum(s.prompt_tokens for s in running if len(s.history) == s.prompt_tokens + 1)
    if decoding:
        timing.decoded += len(running)
        timing.decode_seconds += seconds
    else:
        timing.prompt_seconds += seconds
