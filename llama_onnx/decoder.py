"""The decoder loop: token ids through embed, layer 0 … n-1 and head, one shard at a time, out come logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import ModelConfig
from .kv_cache import KVCache
from .pool import Pool
from .session import Session

# Positions that go through a layer at once. Bounds what a layer needs for intermediate results; a longer prompt goes
# through each layer in several chunks, so that it is still loaded only once.
CHUNK = 512

Counts = int | np.ndarray  # one for all rows, or int [batch]


class Decoder:
    """Runs the shards of a model. Knows nothing about text or sampling."""

    def __init__(self, config: ModelConfig, pool: Pool, chunk: int = CHUNK, cache_type: str = "fp32") -> None:
        self.config = config
        self.pool = pool
        self.chunk = chunk
        self.cache_type = cache_type
        self._decode_pass = _Pass(config, 1, 1, chunk)  # the buffers of every single-token step

    def new_cache(self, capacity: int, batch: int = 1) -> KVCache:
        """Return an empty cache of the type this decoder is asked to use; see `KVCache`."""
        return KVCache(self.config, capacity, batch, self.cache_type)

    def forward(self, ids: np.ndarray, cache: KVCache, every_position: bool = False) -> np.ndarray:
        """Append tokens to the cache and return logits.

        Args:
            ids: int64 [batch, sequence], the tokens that follow those in the cache.
            cache: read and extended in place.
            every_position: logits for all positions instead of the last one.

        Returns:
            float32 [batch, sequence or 1, vocab].

        Raises:
            RequestError: the tokens do not fit the cache.
            PoolTooSmallError: the grown cache leaves no room for a shard.
        """
        positions = ids.shape[1] if every_position else 1
        cache.check_room(ids.shape[1])
        rope_offset = self.rope_offset(cache.length + ids.shape[1])
        if cache.length and rope_offset != cache.rope_offset:
            # Every key in the cache was turned by the other factors: compute them all anew.
            ids = np.concatenate([cache.ids[:, : cache.length], ids], axis=1)
            cache.truncate(0)
        batch, count = ids.shape
        cache.ids[:, cache.length : cache.length + count] = ids
        cache.rope_offset = rope_offset
        self.pool.reserve(cache.used_bytes_after(count) + working_bytes(self.config, count, cache.capacity, self.chunk))
        step = self._decode_pass if ids.shape == (1, 1) else _Pass(self.config, batch, count, self.chunk)
        step.ids[:] = ids
        step.start(cache.length, rope_offset)

        # 1. Tokens become vectors.
        with self.pool.use(self.config.embed) as shard:
            shard.run({"input_ids": step.ids}, {"hidden": step.hidden[0]})

        # 2. Each layer reads one hidden buffer and writes the other, and extends its own keys and values in place.
        for i, layer in enumerate(self.config.layers):
            with self.pool.use(layer) as shard, cache.layer(i, count) as (key, value):
                step.layer(shard, i, key, value)
        cache.advance(count)

        # 3. The last vectors become scores for the next token.
        hidden = step.hidden[self.config.num_layers % 2]
        if positions == 1:
            step.last[:] = hidden[:, -1:]
            hidden = step.last
        elif positions < count:
            hidden = hidden[:, -positions:].copy()
        logits = step.logits(hidden.shape[1])
        with self.pool.use(self.config.head) as shard:
            shard.run({"hidden": hidden}, {"logits": logits})
        return logits.copy() if step is self._decode_pass else logits

    def rope_offset(self, total: int) -> int:
        """Return the row of the rope tables that position 0 of a sequence of `total` tokens takes."""
        switch = self.config.rope_switch_length
        return switch if switch is not None and total > switch else 0

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Return float32 [batch, sequence, hidden_size], the vectors of tokens int64 [batch, sequence]."""
        hidden = np.empty((*ids.shape, self.config.hidden_size), np.float32)
        with self.pool.use(self.config.embed) as shard:
            shard.run({"input_ids": np.ascontiguousarray(ids, np.int64)}, {"hidden": hidden})
        return hidden

    def layer(
        self, i: int, hidden: np.ndarray, key: np.ndarray, value: np.ndarray, past: Counts = 0, rope_offset: Counts = 0
    ) -> np.ndarray:
        """Return what layer `i` alone makes of a stretch of a sequence; `layerwise` and `batch` walk this way.

        Args:
            i: number of the layer.
            hidden: float32 [batch, sequence, hidden_size], what the layer before made of the stretch.
            key: float32 [batch, kv_heads, capacity, head_dim] with `past` positions filled; extended in place.
            value: like key.
            past: where in the sequence the stretch begins; int [batch] where rows differ, which stretches of one
                position may.
            rope_offset: of the whole sequence, or int [batch].

        Returns:
            float32 [batch, sequence, hidden_size].
        """
        step = _Pass(self.config, hidden.shape[0], hidden.shape[1], self.chunk)
        step.start(past, rope_offset)
        step.hidden[i % 2][:] = hidden
        with self.pool.use(self.config.layers[i]) as shard:
            step.layer(shard, i, key, value)
        return step.hidden[(i + 1) % 2]

    def norm(self, hidden: np.ndarray) -> np.ndarray:
        """Return what the last layer made as the head takes it: as it is, where the final norm is in the head."""
        return hidden

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """Return the logits float32 [batch, sequence, vocab] of what `norm` gave, [batch, sequence, hidden]."""
        logits = np.empty((*hidden.shape[:2], self.config.vocab_size), np.float32)
        with self.pool.use(self.config.head) as shard:
            shard.run({"hidden": np.ascontiguousarray(hidden)}, {"logits": logits})
        return logits

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Return float32 [sequence, vocab] for int64 [sequence] in one pass, with a cache of their own."""
        cache = self.new_cache(len(ids))
        try:
            return self.forward(ids[None], cache, every_position=True)[0]
        finally:
            self.pool.reserve(0)


def working_bytes(config: ModelConfig, count: int, capacity: int, chunk: int = CHUNK) -> int:
    """Bytes a pass over `count` tokens needs besides weights and cache: hidden states, MLP and attention results."""
    chunk = min(chunk, count)
    hidden = 2 * count * config.hidden_size
    layer = chunk * (4 * config.hidden_size + 3 * config.intermediate_size)
    scores = config.num_heads * chunk * capacity
    return 4 * (hidden + max(layer, scores) + 2 * config.vocab_size)


@dataclass(frozen=True)
class _Chunk:
    """A stretch of the sequence on its way through a layer: hidden [B, s, H] twice, seqlens_k [B], total [1].

    `rope_rows` [B, s] is an input of models alone whose rope depends on the length of the sequence, else it is empty.
    """

    hidden: tuple[np.ndarray, np.ndarray]
    seqlens_k: np.ndarray
    total_sequence_length: np.ndarray
    rope_rows: dict[str, np.ndarray]
    end: int


class _Pass:
    """The buffers of one pass over [batch, count] tokens."""

    def __init__(self, config: ModelConfig, batch: int, count: int, chunk: int) -> None:
        self._config = config
        self._logits: np.ndarray | None = None
        self.ids = np.empty((batch, count), np.int64)
        self.hidden = [np.empty((batch, count, config.hidden_size), np.float32) for _ in range(2)]
        self.last = np.empty((batch, 1, config.hidden_size), np.float32)
        self.chunks = [
            _Chunk(
                hidden=(self.hidden[0][:, start:end], self.hidden[1][:, start:end]),
                seqlens_k=np.empty(batch, np.int32),
                total_sequence_length=np.empty(1, np.int32),
                rope_rows=(
                    {} if config.rope_switch_length is None else {"rope_rows": np.empty((batch, end - start), np.int64)}
                ),
                end=end,
            )
            for start in range(0, count, chunk)
            for end in [min(start + chunk, count)]
        ]

    def start(self, past: Counts, rope_offset: Counts) -> None:
        """Set the lengths the attention of each chunk sees, `past` tokens (int or [batch]) being in the cache."""
        for chunk in self.chunks:
            chunk.seqlens_k[:] = past + chunk.end - 1  # ONNX Runtime counts the valid tokens less one
            chunk.total_sequence_length[:] = np.max(past) + chunk.end
            for rows in chunk.rope_rows.values():
                last = np.reshape(rope_offset + past + chunk.end, (-1, 1))
                rows[:] = last + np.arange(-rows.shape[1], 0)

    def layer(self, shard: Session, i: int, key: np.ndarray, value: np.ndarray) -> None:
        """Run layer `i` chunk by chunk: it reads one hidden buffer, writes the other, extends its cache in place."""
        for chunk in self.chunks:
            shard.run(
                {
                    "hidden": chunk.hidden[i % 2],
                    "past_key": key,
                    "past_value": value,
                    "seqlens_k": chunk.seqlens_k,
                    "total_sequence_length": chunk.total_sequence_length,
                    **chunk.rope_rows,
                },
                {"hidden_out": chunk.hidden[(i + 1) % 2], "present_key": key, "present_value": value},
            )

    def logits(self, positions: int) -> np.ndarray:
        """Return the output buffer float32 [batch, positions, vocab]."""
        if self._logits is None:
            self._logits = np.empty((self.ids.shape[0], positions, self._config.vocab_size), np.float32)
        return self._logits
