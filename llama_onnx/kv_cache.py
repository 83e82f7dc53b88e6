"""The KV cache: keys and values of every layer, preallocated once and filled in place by the shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .config import ModelConfig
from .errors import RequestError
from .memory import lazy_zeros


class KVCache:
    """Keys and values, float32 [batch, kv_heads, capacity, head_dim] for each layer, and how many tokens are in.

    Memory that was never written takes no room, so a large capacity costs only what is filled.
    """

    def __init__(self, config: ModelConfig, capacity: int, batch: int = 1) -> None:
        """Make an empty cache.

        Raises:
            RequestError: capacity is below 1 or more than the model's context.
        """
        if not 1 <= capacity <= config.context_length:
            raise RequestError(f"{capacity} tokens do not fit the model's context of {config.context_length}")
        shape = (batch, config.num_kv_heads, capacity, config.head_dim)
        self.capacity = capacity
        self.length = 0
        self.ids = np.zeros((batch, capacity), np.int64)  # the tokens that are in
        self.rope_offset = 0  # the row of the rope tables by which the key at position 0 was turned
        self.keys = [lazy_zeros(shape) for _ in config.layers]
        self.values = [lazy_zeros(shape) for _ in config.layers]
        self._bytes_per_token = batch * config.cache_bytes_per_token

    @contextmanager
    def layer(self, i: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Lend the keys and values of layer `i`, which writes those of the `count` tokens that come next.

        Both are float32 [batch, kv_heads, capacity, head_dim] and the same arrays every time, so that they stay bound.
        One layer is lent at a time; what it wrote is kept when the block ends without an error.
        """
        yield self.keys[i], self.values[i]

    def used_bytes_after(self, count: int) -> int:
        """Bytes that the tokens which are in and `count` more take, in all layers."""
        return (self.length + count) * self._bytes_per_token

    def check_room(self, count: int) -> None:
        """Raise RequestError unless `count` more tokens fit."""
        if self.length + count > self.capacity:
            raise RequestError(f"{self.length} + {count} tokens do not fit the cache of {self.capacity}")

    def advance(self, count: int) -> None:
        """Count `count` tokens that every layer has written."""
        self.check_room(count)
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on; the next one written takes its place."""
        if not 0 <= length <= self.length:
            raise RequestError(f"cannot truncate a cache of {self.length} tokens to {length}")
        self.length = length
