"""Keys and values of several sequences side by side, each with a row and a length of its own."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import numpy as np

from ..config import ModelConfig
from ..kv_cache import bytes_per_token, compress, expand, stored_type, zero_rows


class Owner(Protocol):
    """A sequence: `cached` of its tokens are in its row, and `length` when the next pass has written the others."""

    cached: int

    @property
    def length(self) -> int:
        """All its tokens."""


AnyOwner = TypeVar("AnyOwner", bound=Owner)


class KVRows(Generic[AnyOwner]):
    """Keys and values of the sequences under way, [rows, kv_heads, capacity, head_dim] for each layer.

    A row is taken over as it is by the next sequence. When there are to be more rows or fewer, all move to new arrays.
    See `KVCache` for the types they are stored in.
    """

    def __init__(self, config: ModelConfig, capacity: int, cache_type: str = "fp32") -> None:
        """Make a cache without rows; each will have room for `capacity` tokens or a few more."""
        self._config = config
        self._stored, self._float = (stored_type(config.head_dim, kind) for kind in (cache_type, "fp32"))
        self._compact = cache_type != "fp32"
        self._page = max(1, mmap.PAGESIZE // self._stored.itemsize)  # tokens of a head
        self._bytes_per_token = bytes_per_token(config, cache_type)
        self._written: list[int] = []  # tokens whose memory is in use in each row, by whoever wrote them
        self.capacity = -(-capacity // self._page) * self._page
        self.owners: list[AnyOwner] = []
        self.keys = [self._rows(0, self._stored) for _ in config.layers]
        self.values = list(self.keys)
        self._expanded = [self._rows(0, self._float)] * 2

    def bytes_with(self, owners: Sequence[AnyOwner]) -> int:
        """Bytes that are in use when these sequences have their rows and all their tokens in them."""
        order = self._order(owners)
        written = self._written if len(order) == len(self.owners) else [0] * len(order)
        tokens = [max(owner.length, before) for owner, before in zip(order, written, strict=True)]
        pages = sum(-(-count // self._page) + self._compact for count in tokens)  # rows of fp32 begin with a page
        return pages * self._page * self._bytes_per_token

    def seat(self, owners: Sequence[AnyOwner]) -> None:
        """Give each of these sequences a row; those that have one keep what is in it."""
        order = self._order(owners)
        if len(order) != len(self.owners):
            for arrays in (self.keys, self.values):
                for i, array in enumerate(arrays):  # one at a time: the old one is gone before the next is made
                    arrays[i] = self._moved(array, order)
            self._expanded = [self._rows(len(order) if self._compact else 0, self._float) for _ in range(2)]
            self._written = [0] * len(order)
        self.owners = order
        self._written = [max(owner.length, before) for owner, before in zip(order, self._written, strict=True)]

    @contextmanager
    def layer(self, i: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Lend keys and values of layer `i`, float32 [rows, kv_heads, capacity, head_dim], to be extended in place."""
        stored = self.keys[i], self.values[i]
        if not self._compact:
            yield stored
            return
        for small, large in zip(stored, self._expanded, strict=True):
            for row, owner in enumerate(self.owners):
                old = np.s_[row : row + 1, :, : owner.cached]
                expand(small[old], large[old])
        yield self._expanded[0], self._expanded[1]
        for small, large in zip(stored, self._expanded, strict=True):
            for row, owner in enumerate(self.owners):
                new = np.s_[row : row + 1, :, owner.cached : owner.length]
                compress(large[new], small[new])

    def _order(self, owners: Sequence[AnyOwner]) -> list[AnyOwner]:
        """Return who gets which row: the new ones those of the old ones that are gone."""
        if len(owners) != len(self.owners):
            return list(owners)
        new = iter([owner for owner in owners if owner not in self.owners])
        return [owner if owner in owners else next(new) for owner in self.owners]

    def _moved(self, array: np.ndarray, order: Sequence[AnyOwner]) -> np.ndarray:
        moved = self._rows(len(order), self._stored)
        for row, owner in enumerate(order):
            if owner.cached:
                moved[row, :, : owner.cached] = array[self.owners.index(owner), :, : owner.cached]
        return moved

    def _rows(self, count: int, row: np.dtype) -> np.ndarray:
        return zero_rows((count, self._config.num_kv_heads, self.capacity), row)
