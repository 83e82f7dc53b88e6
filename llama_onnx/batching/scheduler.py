"""Many prompts at a time: one pass over the weights takes every sequence that is under way a token further.

A model larger than memory is read from disk once per pass, however many sequences are in it. In a pass each shard is
borrowed once: the sequences that are decoding go through it in one run, each row with a length of its own; those that
are new, or have to be computed again, go through it alone with all their tokens. When a sequence ends, the next prompt
takes its row in the next pass. When the memory does not hold all of them, the youngest waits and is
computed again later.

What comes after a prompt does not depend on the others: each has its own random numbers, and its row sees nothing of
theirs (except where two tokens are equally likely up to rounding). There is no prompt lookup here: a run takes several
new tokens of one sequence only.
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
from ..decoder import Decoder, pass_bytes, runs_of
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
    """Where a run is after a pass: prompts done and in all, in the pass and not yet, and tokens generated so far."""

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
    """Return the requests of `LanguageModel.generate_many`; `check` returns the token ids of a prompt.

    Raises:
        RequestError: a prompt or params cannot be used, there are not as many params as prompts, or batch is no number
            of at least 1.
    """
    if not isinstance(batch, Integral) or batch < 1:
        raise RequestError(f"batch must be at least 1, not {batch!r:.40}")
    if isinstance(prompts, (str, bytes)) or not isinstance(prompts, (Sequence, np.ndarray)):
        raise RequestError(f"prompts must be a list of prompts, not {type(prompts).__name__}")
    if not isinstance(params, Sequence):
        params = [check_params(params, tokenizer).of_prompt(i) for i in range(len(prompts))]
    if len(params) != len(prompts):
        raise RequestError(f"{len(params)} sampling params for {len(prompts)} prompts; give one for each, or one")
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
    """Yield what comes after each prompt, in their order.

    Args:
        decoder: runs the model.
        tokenizer: makes text of its tokens.
        requests: the prompts.
        context: the most tokens of prompt and output together.
        batch: 1 or more: how many sequences are under way at a time, at most; fewer where the memory is too small.
        timing: filled in as the run goes, with the sums over all prompts.
        report: called after every pass.

    Raises:
        PoolTooSmallError: a sequence does not fit even alone.
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
            # 1. Prompts take the places of those that ended; those that do not fit into memory wait.
            started = time.perf_counter()
            while waiting and len(running) < batch:
                running.append(waiting.popleft())
            with decoder.guard:
                rows.make_room(running, waiting)

                # 2. One pass over the weights, and a token for everyone.
                decoding = rows.decoding
                for sequence, scores in zip(rows.owners, rows.forward(), strict=True):
                    sequence.take(scores, tokenizer, decoder.config)
            _take_time(timing, running, decoding, time.perf_counter() - started)

            # 3. A completion is handed out as soon as all before it are.
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
    """A prompt under way, and what was said so far."""

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
        """Choose the next token by its scores, float32 [vocab]."""
        self._stream = self._stream or TextStream(tokenizer, self.history, self.params.stop)
        token, logprob = sample(scores, self.params, self._rng, self.history)
        self.history.append(token)
        reason = finish_reason(token, len(self.history), self.limit, config)
        step = self._stream.add(Token(token, logprob, reason))
        self._texts.append(step.text)
        self.finish_reason = step.finish_reason

    def completion(self) -> Completion:
        """Return the whole, when it has ended."""
        assert self.finish_reason is not None
        new_tokens = len(self.history) - self.prompt_tokens
        return Completion(self.index, "".join(self._texts), self.finish_reason, self.prompt_tokens, new_tokens)


class _Rows:
    """Who has which row of the cache that all sequences share."""

    def __init__(self, decoder: Decoder, capacity: int) -> None:
        self.owners: list[_Sequence] = []
        self.cache = decoder.new_cache(capacity, rows=0)
        self._decoder = decoder

    @property
    def decoding(self) -> bool:
        """Whether one token of each sequence is not in the cache yet; of a new one none is."""
        return all(len(owner.history) - n == 1 for owner, n in zip(self.owners, self.cache.lengths, strict=True))

    def make_room(self, running: list[_Sequence], waiting: deque[_Sequence]) -> None:
        """Give everyone a row and set memory aside for the next pass; the youngest wait where there is too little."""
        decoder = self._decoder
        while True:
            if len(running) < len(self.owners):  # what is given back must be free before the pool takes it
                self._seat(self._order(running))
            order = self._order(running)
            lengths = [len(sequence.history) for sequence in order]
            counts = [length - self._kept(sequence) for sequence, length in zip(order, lengths, strict=True)]
            size = pass_bytes(decoder.config, runs_of(counts, lengths), len(order), decoder.chunk)
            try:
                self.cache.reserve(decoder.pool, self.cache.bytes_with(lengths) + size)
                break
            except PoolTooSmallError:
                if len(running) == 1:
                    raise
            youngest = max(running, key=lambda sequence: sequence.index)
            running.remove(youngest)
            waiting.appendleft(youngest)
        self._seat(order)

    def forward(self) -> np.ndarray:
        """Compute what is not in the cache and return the logits after it, float32 [rows, vocab]."""
        new = [owner.history[length:] for owner, length in zip(self.owners, self.cache.lengths, strict=True)]
        return self._decoder.forward(new, self.cache)[:, 0]

    def _kept(self, sequence: _Sequence) -> int:
        """Return how many tokens of a sequence need not be computed in the next pass."""
        if sequence not in self.owners:
            return 0
        row = self.owners.index(sequence)
        same = self._decoder.rope_offset(len(sequence.history)) == self.cache.rope_offsets[row]
        return self.cache.lengths[row] if same else 0

    def _order(self, running: Sequence[_Sequence]) -> list[_Sequence]:
        """Return who gets which row: if there are as many as now, new ones take the rows of those that are gone."""
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
