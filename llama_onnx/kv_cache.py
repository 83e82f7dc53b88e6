"""The KV cache: keys and values of every layer, preallocated once and filled in place by the shards.

Attention reads and writes float32. A cache of another type holds each layer's rows smaller: they are expanded into one
pair of float32 arrays before their layer runs, and the new rows are compressed when it has run. Old rows stay as they
were compressed the first time, so nothing is rounded twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from .config import ModelConfig
from .errors import RequestError
from .memory import lazy_zeros

CACHE_TYPES = ("fp32", "fp16", "int8")
LARGEST_HALF = np.float32(np.finfo(np.float16).max)
LARGEST_CODE = np.float32(127)
SMALLEST_SCALE = np.finfo(np.float32).tiny  # a row of zeros is divided by this


class KVCache:
    """Keys and values, [batch, kv_heads, capacity, head_dim] for each layer, and how many tokens are in.

    Memory that was never written takes no room, so a large capacity costs only what is filled.
    """

    def __init__(self, config: ModelConfig, capacity: int, batch: int = 1, cache_type: str = "fp32") -> None:
        """Make an empty cache.

        Args:
            config: of the model.
            capacity: the most tokens of a sequence.
            batch: how many sequences.
            cache_type: 'fp32' as attention has them; 'fp16'; or 'int8', each row of head_dim numbers with a float32
                scale of its own.

        Raises:
            RequestError: capacity is below 1 or more than the model's context, or a type the model cannot have.
        """
        check_cache_type(config, cache_type)
        if not 1 <= capacity <= config.context_length:
            raise RequestError(f"{capacity} tokens do not fit the model's context of {config.context_length}")
        shape = (batch, config.num_kv_heads, capacity)
        stored = stored_type(config.head_dim, cache_type)
        self.capacity = capacity
        self.length = 0
        self.ids = np.zeros((batch, capacity), np.int64)  # the tokens that are in
        self.rope_offset = 0  # the row of the rope tables by which the key at position 0 was turned
        self.keys = [zero_rows(shape, stored) for _ in config.layers]
        self.values = [zero_rows(shape, stored) for _ in config.layers]
        # What the layer at work sees, where it cannot see what is stored.
        expanded = 0 if cache_type == "fp32" else 2
        self._expanded = [zero_rows(shape, stored_type(config.head_dim, "fp32")) for _ in range(expanded)]
        self._as_stored = [nullcontext(pair) for pair in zip(self.keys, self.values, strict=True)]
        self._bytes_per_token = bytes_per_token(config, cache_type, batch)

    def layer(self, i: int, count: int) -> AbstractContextManager[tuple[np.ndarray, np.ndarray]]:
        """Lend the keys and values of layer `i`, which writes those of the `count` tokens that come next.

        Both are float32 [batch, kv_heads, capacity, head_dim] and the same arrays every time, so that they stay bound.
        One layer is lent at a time; what it wrote is kept when the block ends without an error.
        """
        return self._expand(i, count) if self._expanded else self._as_stored[i]

    @contextmanager
    def _expand(self, i: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        key, value = self._expanded
        old, new = np.s_[:, :, : self.length], np.s_[:, :, self.length : self.length + count]
        expand(self.keys[i][old], key[old])
        expand(self.values[i][old], value[old])
        yield key, value
        compress(key[new], self.keys[i][new])
        compress(value[new], self.values[i][new])

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


def check_cache_type(config: ModelConfig, cache_type: str) -> None:
    """Raise RequestError unless a model can have a cache of this type."""
    if cache_type not in CACHE_TYPES:
        raise RequestError(f"cache type {cache_type!r} is not known; these are: {', '.join(CACHE_TYPES)}")
    if config.norm is not None and cache_type != "fp32":
        raise RequestError(
            f"{config.directory}: the graphs of the original llama.onnx keep keys and values themselves; "
            f"leave out the cache type {cache_type}"
        )


def bytes_per_token(config: ModelConfig, cache_type: str, batch: int = 1) -> int:
    """Return the bytes that one token of each sequence takes in all layers, the expanded layer included."""
    layers = config.num_layers * stored_type(config.head_dim, cache_type).itemsize
    expanded = 0 if cache_type == "fp32" else 4 * config.head_dim
    return 2 * batch * config.num_kv_heads * (layers + expanded)


def stored_type(head_dim: int, cache_type: str) -> np.dtype:
    """Return the type of a stored row: keys or values of one head at one position."""
    if cache_type == "int8":
        return np.dtype([("codes", np.int8, (head_dim,)), ("scale", np.float32)])
    return np.dtype((np.float32 if cache_type == "fp32" else np.float16, (head_dim,)))


def zero_rows(shape: tuple[int, ...], row: np.dtype) -> np.ndarray:
    """Return rows of zeros: an array of `shape`, with the row as its last axis where that is of numbers alone."""
    return lazy_zeros((*shape, *row.shape), row.base)


def expand(stored: np.ndarray, out: np.ndarray) -> None:
    """Turn stored rows [batch, kv_heads, positions] into float32 [batch, kv_heads, positions, head_dim]."""
    if stored.dtype.names:
        np.multiply(stored["codes"], stored["scale"][..., None], out=out)
        return
    # numpy turns halves into floats one by one. Moved to their places in a float32 the bits are a number 2^112 times
    # too small (exponents count from 15 in a half, from 127 in a float32). A head at a time stays in the CPU's cache.
    for head in np.ndindex(stored.shape[:2]):
        bits = out[head].view(np.int32)
        np.left_shift(stored[head].view(np.int16), 13, out=bits, dtype=np.int32)
        np.bitwise_and(bits, ~(7 << 28), out=bits)  # the sign was carried into the three bits that follow it
        np.multiply(out[head], np.float32(2.0**112), out=out[head])


def compress(rows: np.ndarray, stored: np.ndarray) -> None:
    """Store float32 rows [batch, kv_heads, positions, head_dim], which serve as room for the arithmetic."""
    if not stored.dtype.names:
        stored[:] = np.clip(rows, -LARGEST_HALF, LARGEST_HALF, out=rows)
        return
    largest = np.maximum(rows.max(-1), -rows.min(-1))
    stored["scale"] = np.maximum(largest / LARGEST_CODE, SMALLEST_SCALE)
    rows /= stored["scale"][..., None]
    stored["codes"] = np.rint(rows, out=rows)
