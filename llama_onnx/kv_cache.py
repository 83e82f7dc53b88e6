"""The KV cache: keys and values of one or more sequences, allocated once and filled in place by the shards.

Attention reads and writes float32. A cache of another type takes less memory: one layer at a time is expanded into a
pair of float32 arrays, and only the new rows are compressed after the layer has run, so nothing is rounded twice.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from .config import ModelConfig
from .errors import RequestError
from .kv_types import check_cache_type, compress, expand, stored_type, zero_rows
from .pool import Pool, Reservation


class KVCache:
    """Keys and values [rows, kv_heads, capacity, head_dim] of each layer; pages never written take no memory."""

    def __init__(
        self, config: ModelConfig, capacity: int, rows: int = 1, cache_type: str = "fp32", one_layer: bool = False
    ) -> None:
        """Make an empty cache for `rows` sequences of up to `capacity` tokens.

        Args:
            cache_type: 'fp32', 'fp16', or 'int8' with a float32 scale for each vector of head_dim numbers.
            one_layer: all layers share the arrays of one layer, for tokens that no later pass reads.

        Raises:
            RequestError: capacity is not 1 to the model's context, or the model does not support the type.
        """
        check_cache_type(config, cache_type)
        if not 1 <= capacity <= config.context_length:
            raise RequestError(f"{capacity} tokens do not fit the model's context of {config.context_length}")
        self._config, self.capacity = config, capacity
        self._layers = 1 if one_layer else config.num_layers
        self._stored, self._float = (stored_type(config.head_dim, kind) for kind in (cache_type, "fp32"))
        self._compact = cache_type != "fp32"
        self._page = -(-mmap.PAGESIZE // self._stored.itemsize)  # tokens of one head that cover a page
        self._ragged = bool(mmap.PAGESIZE % self._stored.itemsize) or self._compact  # heads begin within a page
        stored = self._layers * self._stored.itemsize + self._compact * self._float.itemsize
        self.bytes_per_token = 2 * config.num_kv_heads * stored
        self.reservation: Reservation | None = None
        self._allocate(rows)

    def _allocate(self, rows: int) -> None:
        self.size, self.step = 0, list[int]()  # bytes that the decoder reserves for a pass, and for which steps
        self.lengths, self.rope_offsets = [0] * rows, [0] * rows  # tokens; rope table row of position 0
        self._ends, self._written = [0] * rows, [0] * rows  # length after this pass; most tokens ever written
        self._ids = np.zeros((rows, 1, self.capacity), np.int64)
        self.keys, self.values = ([self._zeros(rows) for _ in range(self._layers)] for _ in range(2))
        self._share()

    def _zeros(self, rows: int) -> np.ndarray:
        pages = -(-self.capacity // self._page)
        return zero_rows((rows, self._config.num_kv_heads, pages * self._page), self._stored)

    def _share(self) -> None:
        """Prepare what `layer` returns: the stored arrays, or one expanded pair for all layers."""
        self._expanded = [zero_rows(self.keys[0].shape[:3], self._float) for _ in range(2 * self._compact)]
        pairs = list(zip(self.keys, self.values, strict=True)) * (self._config.num_layers // self._layers)
        self._pairs = [nullcontext(pair) for pair in pairs]

    @property
    def length(self) -> int:
        """The number of tokens in the longest row, without those of a pass that has not finished."""
        return max(self.lengths, default=0)

    def tokens(self, row: int = 0) -> np.ndarray:
        """Return the tokens of a row, int64 [length]."""
        return self._ids[row, 0, : self.lengths[row]]

    def start(self, new: Sequence[np.ndarray]) -> list[int]:
        """Begin a pass that adds tokens int64 [count] to each row; return how long the rows will be.

        Raises:
            RequestError: they do not fit, or a row gets no token.
        """
        if not all(map(len, new)) or len(new) != len(self.lengths):
            raise RequestError(f"a pass needs new tokens for each of the {len(self.lengths)} rows of the cache")
        self._ends = [length + len(ids) for length, ids in zip(self.lengths, new)]  # noqa: B905
        if max(self._ends) > self.capacity:
            raise RequestError(f"{max(self._ends)} tokens do not fit the cache of {self.capacity}")
        for row, ids in enumerate(new):
            self._ids[row, 0, self.lengths[row] : self._ends[row]] = ids
        return self._ends

    def layer(self, i: int) -> AbstractContextManager[tuple[np.ndarray, ...]]:
        """Borrow the keys and values of layer `i`, both float32 [rows, kv_heads, capacity, head_dim], to extend them.

        They are the same arrays every time, so that they stay bound. New rows are stored unless the block raises.
        """
        return self._expand(i) if self._compact else self._pairs[i]

    @contextmanager
    def _expand(self, i: int) -> Iterator[tuple[np.ndarray, ...]]:
        with self._pairs[i] as stored:
            pairs = list(zip(stored, self._expanded, strict=True))
        for small, large in pairs:
            for row, length in enumerate(self.lengths):
                expand(small[row : row + 1, :, :length], large[row : row + 1, :, :length])
        yield self._expanded[0], self._expanded[1]
        for small, large in pairs:
            for row, (length, end) in enumerate(zip(self.lengths, self._ends, strict=True)):
                compress(large[row : row + 1, :, length:end], small[row : row + 1, :, length:end])

    def finish(self) -> None:
        """End a pass: every layer has written the tokens given to `start`."""
        self.lengths = list(self._ends)

    def truncate(self, length: int, row: int = 0) -> None:
        """Drop every token of a row from position `length` on; the next pass continues there."""
        if length not in range(self.lengths[row] + 1):
            raise RequestError(f"cannot truncate a cache of {self.lengths[row]} tokens to {length}")
        self.lengths[row] = int(length)

    def common_prefix(self, ids: Sequence[int], row: int = 0) -> int:
        """Return the length of the common prefix of a row and `ids`."""
        cached = self.tokens(row)[: len(ids)]
        different = cached != np.asarray(ids[: len(cached)], np.int64)
        return int(different.argmax()) if different.any() else len(cached)

    def rearrange(self, order: Sequence[int | None]) -> None:
        """Make the current row order[i] the new row i (None: empty). If their number stays, rows must not move."""
        lengths, offsets = (
            [0 if old is None else of[old] for old in order] for of in (self.lengths, self.rope_offsets)
        )

        def moved(array: np.ndarray, new: np.ndarray) -> np.ndarray:
            for row, (old, length) in enumerate(zip(order, lengths, strict=True)):
                if length:
                    new[row, :, :length] = array[old, :, :length]
            return new

        if len(order) != len(self.lengths):
            self._pairs = []  # replace one array at a time: the old one is freed before the next is made
            for arrays in (self.keys, self.values):
                for i in range(self._layers):
                    arrays[i] = moved(arrays[i], self._zeros(len(order)))
            self._ids = moved(self._ids, np.zeros((len(order), *self._ids.shape[1:]), np.int64))
            self._written, self._ends = list(lengths), list(lengths)
            self._share()
        self.lengths, self.rope_offsets, self.step = lengths, offsets, []

    def bytes_with(self, lengths: Sequence[int]) -> int:
        """Return the bytes in use when rows hold `lengths` tokens; another number of rows means rearranged ones."""
        written = self._written if len(lengths) == len(self._written) else [0] * len(lengths)
        pages = sum(-(-max(pair) // self._page) + self._ragged for pair in zip(lengths, written, strict=True))
        size = pages * self._page * self.bytes_per_token
        return size + size // self._layers * (len(lengths) > 1)  # one layer exists twice while rows are rearranged

    def reserve(self, pool: Pool, size: int) -> None:
        """Reserve `size` bytes of the pool's budget until `close`; see `Reservation.hold`."""
        self.reservation = self.reservation or pool.reserved()
        self.reservation.hold(size)
        self._written = list(map(max, self._written, self._ends))  # from here on a pass may write them

    def close(self) -> None:
        """Free the arrays, and return the reserved bytes to the pool."""
        self._allocate(0)
        if self.reservation:
            self.reservation.close()
