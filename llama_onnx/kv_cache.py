"""The KV cache: keys and values of one or more sequences, allocated once and filled in place by the shards.

Each sequence has a row of its own. Attention reads and writes float32. A cache of another type stores rows smaller:
those of the layer at work are expanded into one pair of float32 arrays, and what the layer added is compressed when it
has run. Old rows stay as they were compressed the first time, so nothing is rounded twice.
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

Pair = tuple[np.ndarray, np.ndarray]


class KVCache:
    """Keys and values float32 [rows, kv_heads, capacity, head_dim] of each layer, and the tokens that are in them.

    Memory that was never written takes no room, so a large capacity costs only what is filled.
    """

    def __init__(
        self, config: ModelConfig, capacity: int, rows: int = 1, cache_type: str = "fp32", one_layer: bool = False
    ) -> None:
        """Make an empty cache.

        Args:
            config: of the model.
            capacity: the most tokens of a row.
            rows: how many sequences.
            cache_type: 'fp32' as attention has them; 'fp16'; or 'int8', each row of head_dim numbers with a float32
                scale of its own.
            one_layer: all layers share the arrays of one, for passes that take all sequences through a layer before
                they go on to the next.

        Raises:
            RequestError: capacity is below 1 or more than the model's context, or a type the model cannot have.
        """
        check_cache_type(config, cache_type)
        if not 1 <= capacity <= config.context_length:
            raise RequestError(f"{capacity} tokens do not fit the model's context of {config.context_length}")
        self._config = config
        self._layers = 1 if one_layer else config.num_layers
        self._stored, self._float = (stored_type(config.head_dim, kind) for kind in (cache_type, "fp32"))
        self._compact = cache_type != "fp32"
        self._page = max(1, mmap.PAGESIZE // self._stored.itemsize)  # tokens of one head
        stored = self._layers * self._stored.itemsize + self._compact * self._float.itemsize
        self.bytes_per_token = 2 * config.num_kv_heads * stored
        self.capacity = capacity
        self.reservation: Reservation | None = None
        self._allocate(rows)

    def _allocate(self, rows: int) -> None:
        self.lengths = [0] * rows  # tokens whose keys and values all layers have written
        self.rope_offsets = [0] * rows  # the row of the rope tables that rotated the key at position 0
        self.ids = np.zeros((rows, self.capacity), np.int64)
        self._written = [0] * rows  # high water of each row: tokens whose memory is in use
        self._new = [0] * rows
        self.keys, self.values = ([self._zeros(rows) for _ in range(self._layers)] for _ in range(2))
        self._share()

    def _share(self) -> None:
        """Prepare what `layer` hands out: what is stored, or one expanded pair for all layers."""
        shape = self.keys[0].shape[:3]
        self._expanded = [zero_rows(shape, self._float) for _ in range(2 * self._compact)]
        pairs = list(zip(self.keys, self.values, strict=True)) * (self._config.num_layers // self._layers)
        self._as_stored = [nullcontext(pair) for pair in pairs]

    def _zeros(self, rows: int) -> np.ndarray:
        # Heads begin at page boundaries, so that the pages in use can be counted.
        pages = -(-self.capacity // self._page)
        return zero_rows((rows, self._config.num_kv_heads, pages * self._page), self._stored)

    @property
    def length(self) -> int:
        """Tokens in the only row, or in the longest one."""
        return max(self.lengths)

    def start(self, new: Sequence[np.ndarray]) -> list[int]:
        """Begin a pass that adds tokens int64 [count] to each row; return how long the rows will be.

        Raises:
            RequestError: they do not fit.
        """
        for row, (ids, length) in enumerate(zip(new, self.lengths, strict=True)):
            if not len(ids):
                raise RequestError("a pass needs at least one new token of each row")
            if length + len(ids) > self.capacity:
                raise RequestError(f"{length} + {len(ids)} tokens do not fit the cache of {self.capacity}")
            self.ids[row, length : length + len(ids)] = ids
        self._new = [len(ids) for ids in new]
        return [length + count for length, count in zip(self.lengths, self._new, strict=True)]

    def layer(self, i: int) -> AbstractContextManager[Pair]:
        """Return keys and values of layer `i`, both float32 [rows, kv_heads, capacity, head_dim], for it to extend.

        The arrays are the same every time, so that they stay bound. One layer is handed out at a time; what it wrote
        is kept when the block ends without an error.
        """
        return self._expand(i) if self._compact else self._as_stored[i]

    @contextmanager
    def _expand(self, i: int) -> Iterator[Pair]:
        with self._as_stored[i] as stored:
            pairs = list(zip(stored, self._expanded, strict=True))
        for small, large in pairs:
            for row, length in enumerate(self.lengths):
                expand(small[row : row + 1, :, :length], large[row : row + 1, :, :length])
        yield self._expanded[0], self._expanded[1]
        for small, large in pairs:
            for row, (length, count) in enumerate(zip(self.lengths, self._new, strict=True)):
                new = np.s_[row : row + 1, :, length : length + count]
                compress(large[new], small[new])

    def finish(self) -> None:
        """End a pass: every layer has written the tokens that `start` named."""
        self.lengths = [length + count for length, count in zip(self.lengths, self._new, strict=True)]
        self._written = list(map(max, self._written, self.lengths))

    def truncate(self, length: int, row: int = 0) -> None:
        """Forget every token of a row from position `length` on; the next one written takes its place."""
        if not 0 <= length <= self.lengths[row]:
            raise RequestError(f"cannot truncate a cache of {self.lengths[row]} tokens to {length}")
        self.lengths[row] = length

    def common_prefix(self, ids: Sequence[int], row: int = 0) -> int:
        """Return how many first tokens a row has in common with `ids`."""
        count = min(len(ids), self.lengths[row])
        different = self.ids[row, :count] != np.asarray(ids[:count], np.int64)
        return int(different.argmax()) if different.any() else count

    def rearrange(self, order: Sequence[int | None]) -> None:
        """Make row i of what is row order[i] now; None makes it empty.

        Without a change of the number of rows, each stays where it is or becomes empty.
        """
        ids, lengths, rope_offsets = self.ids, self.lengths, self.rope_offsets
        kept = [(row, old) for row, old in enumerate(order) if old is not None and lengths[old]]
        if len(order) != len(lengths):
            for arrays in (self.keys, self.values):
                for i, array in enumerate(arrays):  # one at a time: the old one is freed before the next is made
                    arrays[i] = self._zeros(len(order))
                    for row, old in kept:
                        arrays[i][row, :, : lengths[old]] = array[old, :, : lengths[old]]
            self._written = [0] * len(order)
            self.ids = np.zeros((len(order), self.capacity), np.int64)
            self._share()
        self.lengths, self.rope_offsets = [0] * len(order), [0] * len(order)
        for row, old in kept:
            self.ids[row], self.lengths[row], self.rope_offsets[row] = ids[old], lengths[old], rope_offsets[old]
        self._new = [0] * len(order)
        self._written = list(map(max, self._written, self.lengths))

    def bytes_with(self, lengths: Sequence[int]) -> int:
        """Return the bytes in use when rows hold so many tokens; with another number of rows, when newly arranged.

        Several rows take one layer more: while they are rearranged, one layer is there twice.
        """
        written = self._written if len(lengths) == len(self._written) else [0] * len(lengths)
        pages = sum(-(-max(pair) // self._page) + self._compact for pair in zip(lengths, written, strict=True))
        size = pages * self._page * self.bytes_per_token
        return size + size // self._layers * (len(lengths) > 1)

    def reserve(self, pool: Pool, size: int) -> None:
        """Hold so many bytes of the pool's budget, until `close` or until nobody uses this cache any more.

        Raises:
            PoolTooSmallError: there is no room.
        """
        if self.reservation is None:
            self.reservation = pool.reserved()
        self.reservation.hold(size)

    def close(self) -> None:
        """Return the reserved bytes to the pool."""
        if self.reservation is not None:
            self.reservation.close()
