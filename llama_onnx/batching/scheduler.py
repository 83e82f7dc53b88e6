"""Many prompts at a time: one pass over the weights takes every sequence that is under way a token further.

A model larger than memory is read from disk once per pass, however many are in it. In a pass each shard is lent once:
the sequences that are decoding go through it in one run, each row with a length of its own; those that are new, or have
to be computed anew, go through it alone with all they have. When a sequence ends, the next prompt takes its row in the
next pass. When the memory does not hold all of them, the youngest waits and is computed anew later.

What comes after a prompt does not depend on the others: each has its own random numbers, and its row sees nothing of
theirs (but for two tokens that are equally likely up to rounding). There is no prompt lookup here: a run takes several
new tokens of one sequence only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import ModelConfig
from ..decoder import Decoder, working_bytes
from ..errors import PoolTooSmallError
from ..generate import finish_reason
from ..sampling import SamplingParams, sample
from ..text.stream import TextStream
from ..tokenizer import Tokenizer
from ..tokens import Timing, Token
from .kv_rows import KVRows

BATCH = 8


@dataclass(frozen=True)
class Request:
    """Token ids to continue, checked by `check_prompt`, and how."""

    prompt: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True)
class Completion:
    """What came after a prompt. `finish_reason` is 'stop' or 'length'; `completion_tokens` counts an end token too."""

    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Report:
    """Where a run is after a pass: prompts done and in all, in the pass and not yet, and tokens generated so far."""

    done: int
    total: int
    running: int
    waiting: int
    new_tokens: int


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
        batch: 1 or more: how many sequences are under way at a time, at the most; fewer where the memory is too little.
        timing: filled in as the run goes, with the sums over all prompts.
        report: called after every pass.

    Raises:
        PoolTooSmallError: a sequence does not fit even alone.
    """
    timing = timing if timing is not None else Timing()
    waiting = deque(_Sequence(i, request, context) for i, request in enumerate(requests))
    capacity = max((sequence.capacity for sequence in waiting), default=1)
    rows: KVRows[_Sequence] = KVRows(decoder.config, capacity, decoder.cache_type)
    running: list[_Sequence] = []
    finished: dict[int, Completion] = {}
    done = yielded = 0
    try:
        while running or waiting:
            # 1. Prompts take the places of those that ended; who does not fit into memory waits.
            started = time.perf_counter()
            while waiting and len(running) < batch:
                running.append(waiting.popleft())
            for sequence in running:
                sequence.turn(decoder.rope_offset(len(sequence.history)))
            _make_room(decoder, rows, running, waiting)

            # 2. One pass over the weights, and a token for everyone.
            decoding = all(sequence.decodes for sequence in running)
            for sequence, scores in zip(rows.owners, _forward(decoder, rows), strict=True):
                sequence.take(scores, tokenizer, decoder.config)
            _take_time(timing, running, decoding, time.perf_counter() - started)

            # 3. What is done is handed out as soon as all before it is.
            finished |= {sequence.index: sequence.completion() for sequence in running if sequence.finish_reason}
            in_pass, running = len(running), [sequence for sequence in running if not sequence.finish_reason]
            done += in_pass - len(running)
            report(Report(done, len(requests), in_pass, len(waiting), timing.new_tokens))
            while yielded in finished:
                yield finished.pop(yielded)
                yielded += 1
    finally:
        decoder.pool.reserve(0)


class _Sequence:
    """A prompt under way: what was said so far, and how much of it is in its row of the cache."""

    def __init__(self, index: int, request: Request, context: int) -> None:
        self.index = index
        self.params = request.params
        self.history = list(request.prompt)
        self.prompt_tokens = len(request.prompt)
        self.capacity = min(context, self.prompt_tokens + request.params.max_tokens)
        self.cached = 0
        self.rope_offset = 0
        self.finish_reason: str | None = None
        self._rng = np.random.default_rng(request.params.seed)
        self._stream: TextStream | None = None
        self._texts: list[str] = []

    @property
    def length(self) -> int:
        """All its tokens, those that are not in the cache yet too."""
        return len(self.history)

    @property
    def decodes(self) -> bool:
        """Whether one token is all that is not in the cache; otherwise nothing is in it."""
        return len(self.history) - self.cached == 1

    def turn(self, rope_offset: int) -> None:
        """Take the rope factors of its length: keys that were turned by others are of no use."""
        if rope_offset != self.rope_offset:
            self.cached, self.rope_offset = 0, rope_offset

    def take(self, scores: np.ndarray, tokenizer: Tokenizer, config: ModelConfig) -> None:
        """Choose the next token by its scores, float32 [vocab]; all before it are in the cache now."""
        self._stream = self._stream or TextStream(tokenizer, self.history, self.params.stop)
        self.cached = len(self.history)
        token, logprob = sample(scores, self.params, self._rng, self.history)
        self.history.append(token)
        reason = finish_reason(token, len(self.history), self.capacity, config)
        step = self._stream.add(Token(token, logprob, reason))
        self._texts.append(step.text)
        self.finish_reason = step.finish_reason

    def completion(self) -> Completion:
        """Return the whole, when it has ended."""
        assert self.finish_reason is not None
        new_tokens = len(self.history) - self.prompt_tokens
        return Completion(self.index, "".join(self._texts), self.finish_reason, self.prompt_tokens, new_tokens)


@dataclass
class _Stretch:
    """What goes through a layer in one run: hidden states [rows, s, hidden_size], and the rows of the cache it extends.

    `past` and `rope_offset` are int [rows].
    """

    rows: slice
    hidden: np.ndarray
    past: np.ndarray
    rope_offset: np.ndarray


def _make_room(decoder: Decoder, rows: KVRows[_Sequence], running: list[_Sequence], waiting: deque[_Sequence]) -> None:
    """Set memory aside for the next pass and give everyone a row; the youngest wait where there is too little."""
    while True:
        if len(running) < len(rows.owners):  # what is given back must be free before the pool takes it
            rows.seat(running)
        try:
            decoder.pool.reserve(_bytes_beside(decoder, rows, running))
            break
        except PoolTooSmallError:
            if len(running) == 1:
                raise
        youngest = max(running, key=lambda sequence: sequence.index)
        running.remove(youngest)
        youngest.cached = 0
        waiting.appendleft(youngest)
    rows.seat(running)


def _forward(decoder: Decoder, rows: KVRows[_Sequence]) -> np.ndarray:
    """Bring the tokens that are not in the cache into it and return the logits after them, float32 [rows, vocab]."""
    config = decoder.config
    with decoder.pool.use(config.embed):
        stretches = _stretches(decoder, rows.owners)
    for i, shard in enumerate(config.layers):
        with decoder.pool.use(shard), rows.layer(i) as (keys, values):  # held while all go through
            for stretch in stretches:
                key, value = keys[stretch.rows], values[stretch.rows]
                stretch.hidden = decoder.layer(i, stretch.hidden, key, value, stretch.past, stretch.rope_offset)
    last = np.empty((len(rows.owners), 1, config.hidden_size), stretches[0].hidden.dtype)
    for stretch in stretches:
        last[stretch.rows] = stretch.hidden[:, -1:]
    return decoder.head(decoder.norm(last))[:, 0]


def _stretches(decoder: Decoder, owners: Sequence[_Sequence]) -> list[_Stretch]:
    """Return what goes through the layers together: all that decode, then each of the others alone.

    One run takes adjoining rows, so it has the others' rows in it as well, with a token at position 0, where they have
    nothing in the cache yet; their own stretch, which comes after it, begins there.
    """

    def stretch(first: int, tokens: Sequence[Sequence[int]]) -> _Stretch:
        rows = slice(first, first + len(tokens))
        past = np.array([owner.cached for owner in owners[rows]])
        rope_offset = np.array([owner.rope_offset for owner in owners[rows]])
        return _Stretch(rows, decoder.embed(np.array(tokens, np.int64)), past, rope_offset)

    together = [stretch(0, [owner.history[-1:] for owner in owners])] if any(o.decodes for o in owners) else []
    return together + [stretch(row, [owner.history]) for row, owner in enumerate(owners) if not owner.decodes]


def _bytes_beside(decoder: Decoder, rows: KVRows[_Sequence], running: Sequence[_Sequence]) -> int:
    """Bytes a pass takes besides the shards: cache, hidden states, what the largest run needs, logits.

    Layers of the original llama.onnx have the keys and values of a sequence once more while they run.
    """
    config = decoder.config
    counts = [len(sequence.history) - sequence.cached for sequence in running]
    states = 4 * sum(counts) * config.hidden_size
    largest = working_bytes(config, max(*counts, len(running)), rows.capacity, decoder.chunk)
    one_layer = max(len(sequence.history) for sequence in running) * config.cache_bytes_per_token // config.num_layers
    return rows.bytes_with(running) + states + largest + one_layer + 4 * len(running) * config.vocab_size


def _take_time(timing: Timing, running: Sequence[_Sequence], decoding: bool, seconds: float) -> None:
    timing.new_tokens += len(running)
    timing.prompt_tokens += sum(s.prompt_tokens for s in running if len(s.history) == s.prompt_tokens + 1)
    if decoding:
        timing.decoded += len(running)
        timing.decode_seconds += seconds
    else:
        timing.prompt_seconds += seconds
