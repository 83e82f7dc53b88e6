"""The decoder loop: token ids go through embed, layer 0 … n-1 and head, one shard at a time, and become logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from .config import ModelConfig
from .kv_cache import KVCache
from .pool import Pool
from .session import Guard, Session

CHUNK = 512  # positions that go through a layer at once, which bounds its intermediate results
ATTENTION_BYTES, GAP = 8 << 20, 1024  # the most a kernel without scores takes; unused numbers after a row of scores
Arrays = Mapping[str, np.ndarray]


class Stretch:
    """New tokens on their way through the shards: `count` of one cache row, or one token for each of several rows.

    `ids` are int64 [rows, count]; `hidden`, float32 [rows, count, hidden_size], is the output of the last shard run.
    """

    def __init__(self, shape: Any, ids: np.ndarray, chunk: int, rows: slice | None = None, spare: bool = True) -> None:
        """Make the buffers for ids [rows, count], where rows or count is 1; `shape` is a config or a spec.

        `rows` None means all rows of the cache: its arrays then stay bound from pass to pass. Without `spare`, each
        layer writes to a new array instead of a second buffer.
        """
        width, count = ids.shape
        self.rows, self.ids = rows, ids
        self.hidden = np.empty((width, count, shape.hidden_size), np.float32)
        self.spare = np.empty_like(self.hidden) if spare else None
        self._buffers = self.hidden, self.spare
        self.cuts = [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]
        self.inputs: list[dict[str, np.ndarray]] = []
        for cut in self.cuts:
            inputs = {"seqlens_k": np.empty(width, np.int32), "total_sequence_length": np.empty(1, np.int32)}
            if shape.rope_switch_length is not None:  # only then does a graph take rows of the rope tables as input
                inputs["rope_rows"] = np.empty((width, cut.stop - cut.start), np.int64)
            self.inputs.append(inputs)

    def start(self, past: Sequence[int], rope_offsets: Sequence[int]) -> Stretch:
        """Begin a pass: row i has past[i] tokens, and its position 0 is row rope_offsets[i] of the tables."""
        self.hidden, self.spare = self._buffers
        for cut, inputs in zip(self.cuts, self.inputs):  # noqa: B905  every decode step comes here
            for row, length in enumerate(past):
                inputs["seqlens_k"][row] = length + cut.stop - 1  # ONNX Runtime counts from 0
            inputs["total_sequence_length"][0] = max(past) + cut.stop
            if "rope_rows" in inputs:
                inputs["rope_rows"][:] = np.add(rope_offsets, past)[:, None] + np.arange(cut.start, cut.stop)
        return self


def run_layer(
    session: Session, stretch: Stretch, key: np.ndarray, value: np.ndarray, more: Arrays | None = None
) -> None:
    """Run a layer on a stretch, chunk by chunk, and replace its hidden states: the calling convention of a shard.

    It writes keys and values, float32 [rows, kv_heads, capacity, head_dim], of the new tokens in place. `more` holds
    arrays for extra outputs by name, if the shard has any; the stretch must then be one chunk.
    """
    if stretch.rows is not None:
        key, value = key[stretch.rows], value[stretch.rows]
    given = stretch.hidden
    made = np.empty_like(given) if stretch.spare is None else stretch.spare
    whole = len(stretch.cuts) == 1
    for cut, inputs in zip(stretch.cuts, stretch.inputs):  # noqa: B905
        outputs = {"hidden_out": made if whole else made[:, cut], "present_key": key, "present_value": value}
        if more:
            outputs |= more
        session.run(
            {"hidden": given if whole else given[:, cut], "past_key": key, "past_value": value, **inputs}, outputs
        )
    stretch.hidden, stretch.spare = made, None if stretch.spare is None else given


class Run(NamedTuple):
    """The size of one run of a layer: rows, new tokens per row, and the longest row including them."""

    rows: int
    tokens: int
    total: int


def runs_of(counts: Sequence[int], lengths: Sequence[int]) -> list[Run]:
    """Return the runs of a pass that adds `counts` tokens to rows, which are `lengths` long afterwards.

    The kernel takes several new tokens for a single row only. So the first new token of every row goes through in one
    run, and then each row with more tokens goes through alone, repeating its first one.
    """
    longer = [Run(1, count, length) for count, length in zip(counts, lengths, strict=True) if count > 1]
    return longer if len(longer) == len(counts) else [Run(len(counts), 1, max(lengths)), *longer]


def pass_bytes(config: ModelConfig, runs: Sequence[Run], positions: int, chunk: int, spare: bool = True) -> int:
    """Return the bytes of a pass besides weights and cache: hidden states, the largest run, logits of `positions`.

    `benchmarks/pass_memory.py` measures it. `spare`: each stretch has a second buffer of hidden states."""
    (copies, logit_copies), hidden, query = config.copies, config.hidden_size, config.num_heads * config.head_dim
    states = [4 * hidden * run.rows * run.tokens for run in runs]
    largest = 4 * (positions + runs[0].rows) * (logit_copies * config.vocab_size + 3 * hidden)
    for run in runs:
        size = 4 * run.rows * min(run.tokens, chunk)  # of one number for each token
        scores = size * (config.num_heads + 1) * run.total  # the mask takes as much as one more head
        beside = GAP * config.num_heads * size * (copies == 1) if copies else min(scores, ATTENTION_BYTES)
        attention = 8 * query * (size + run.rows * run.total * (copies > 1)) + copies * scores + beside
        largest = max(largest, attention, size * (5 * hidden + 3 * config.intermediate_size))
    return sum(states) + (sum(states) if spare else max(states)) + largest


class Decoder:
    """Runs the shards of a model. Knows nothing about text or sampling."""

    def __init__(
        self, config: ModelConfig, pool: Pool, chunk: int = CHUNK, cache_type: str = "fp32", guard: Guard | None = None
    ) -> None:
        self.config, self.pool, self.chunk, self.cache_type = config, pool, chunk, cache_type
        self.guard = guard or Guard()
        self._step = Stretch(config, np.zeros((1, 1), np.int64), chunk)  # the buffers of single tokens
        self._step_logits = np.empty((1, 1, config.vocab_size), np.float32)

    def new_cache(self, capacity: int, rows: int = 1, one_layer: bool = False) -> KVCache:
        """Return an empty cache of this decoder's cache type; see `KVCache`."""
        return KVCache(self.config, capacity, rows, "fp32" if one_layer else self.cache_type, one_layer)

    def forward(
        self, new: np.ndarray | Sequence[Sequence[int]], cache: KVCache, every_position: bool = False
    ) -> np.ndarray:
        """Append tokens to each row of the cache, and return the logits of the last position or of every position.

        Args:
            new: int64 [rows, sequence], or a list of ids for each row; with `every_position`, all of one length.
            cache: read and extended in place.

        Returns:
            float32 [rows, sequence or 1, vocab].

        Raises:
            RequestError: the tokens do not fit the cache, or a row gets none.
            PoolTooSmallError: the grown cache leaves no room for a shard.
        """
        with self.guard:
            positions = len(new[0]) if every_position else 1
            tokens = self._all_where_rope_changes([np.asarray(ids, np.int64) for ids in new], cache)
            self.reserve(cache, [len(ids) for ids in tokens], cache.start(tokens), positions)
            stretches = self._stretches(tokens, cache)

            # 1. Tokens become vectors.
            for stretch in stretches:
                self.embed(stretch)

            # 2. Each layer replaces the vectors, and extends its own keys and values in place.
            self.through_layers(stretches, cache)
            cache.finish()

            # 3. The last vectors become scores for the next token.
            last = stretches[0].hidden
            if len(stretches) > 1:
                last = np.empty((len(tokens), positions, self.config.hidden_size), np.float32)
                for stretch in stretches:
                    last[stretch.rows or slice(None)] = stretch.hidden[:, -positions:]
            elif positions < last.shape[1]:
                last = last[:, -positions:].copy()
            return self.head(self.norm(last))

    def reserve(self, cache: KVCache, counts: Sequence[int], lengths: Sequence[int], positions: int = 1) -> None:
        """Reserve memory for the cache and a pass that adds `counts` tokens to rows, which are then `lengths` long."""
        step = [length >> 4 for length in lengths] if max(counts) == 1 else []
        if not step or step != cache.step:  # 16 steps of single tokens reserve the bytes of the last one
            cache.step, most = step, [length | 15 for length in lengths] if step else lengths
            size = pass_bytes(self.config, runs_of(counts, most), len(counts) * positions, self.chunk)
            cache.size = cache.bytes_with(most) + size
        cache.reserve(self.pool, cache.size)

    def through_layers(
        self, stretches: Sequence[Stretch], cache: KVCache, advance: Callable[[int], object] = lambda tokens: None
    ) -> None:
        """Run stretches through all layers; each layer is borrowed once. `advance` gets the tokens of each run."""
        for i, layer in enumerate(self.config.layers):
            with self.pool.use(layer) as session, cache.layer(i) as (key, value):
                for stretch in stretches:
                    self.run_layer(session, stretch, key, value)
                    advance(stretch.ids.size)

    run_layer = staticmethod(run_layer)

    def embed(self, stretch: Stretch) -> None:
        """Turn the ids of a stretch into its hidden states."""
        with self.pool.use(self.config.embed) as session:
            session.run({"input_ids": stretch.ids}, {"hidden": stretch.hidden})

    def norm(self, hidden: np.ndarray) -> np.ndarray:
        """Return the head's input for the output of the last layer: the same array if the head includes the norm."""
        return hidden

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """Return the logits float32 [rows, sequence, vocab] of an output of `norm`, [rows, sequence, hidden_size]."""
        shape = (*hidden.shape[:2], self.config.vocab_size)
        single = shape[1] == 1  # then the same buffer is used every time, so that it stays bound
        if single and self._step_logits.shape != shape:
            self._step_logits = np.empty(shape, np.float32)
        logits = self._step_logits if single else np.empty(shape, np.float32)
        with self.pool.use(self.config.head) as session:
            session.run({"hidden": np.ascontiguousarray(hidden)}, {"logits": logits})
        return logits.copy() if single else logits

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Return float32 [sequence, vocab] for int64 [sequence] in one pass, with a cache of its own."""
        with closing(self.new_cache(len(ids), one_layer=True)) as cache:
            return self.forward(ids[None], cache, every_position=True)[0]

    def rope_offset(self, total: int) -> int:
        """Return the row of the rope tables for position 0 of a sequence of `total` tokens."""
        switch = self.config.rope_switch_length
        return switch if switch is not None and total > switch else 0

    def _all_where_rope_changes(self, tokens: list[np.ndarray], cache: KVCache) -> list[np.ndarray]:
        """Return the tokens to compute for each row: all of them if its cached keys were rotated by other factors."""
        if self.config.rope_switch_length is None:
            return tokens
        for row, length in enumerate(cache.lengths[: len(tokens)]):
            offset = self.rope_offset(length + len(tokens[row]))
            if length and offset != cache.rope_offsets[row]:
                tokens[row] = np.concatenate([cache.tokens(row), tokens[row]])
                cache.truncate(0, row)
            cache.rope_offsets[row] = offset
        return tokens

    def _stretches(self, tokens: Sequence[np.ndarray], cache: KVCache) -> list[Stretch]:
        """Return the stretches that go through the layers; `runs_of` explains how rows are divided."""
        stretches = []
        if any(len(ids) == 1 for ids in tokens):
            if len(self._step.ids) != len(tokens):
                self._step = Stretch(self.config, np.zeros((len(tokens), 1), np.int64), self.chunk)
            for row, ids in enumerate(tokens):
                self._step.ids[row, 0] = ids[0]
            stretches.append(self._step.start(cache.lengths, cache.rope_offsets))
        for row, ids in enumerate(tokens):
            if len(ids) > 1:
                own = slice(row, row + 1)
                stretch = Stretch(self.config, ids[None], self.chunk, own if len(tokens) > 1 else None)
                stretches.append(stretch.start(cache.lengths[own], cache.rope_offsets[own]))
        return stretches
