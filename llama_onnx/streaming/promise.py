"""The memory promise: a limit for the whole process. The first model fixes it, and the pools of all models share it.

The interpreter, weights, KV caches and working memory together stay within it. The memory that the process takes
without any pool is measured and set aside; the pools get the rest.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ..config import ModelConfig
from ..decoder import Run, pass_bytes
from ..errors import ModelStateError, PoolTooSmallError, RequestError
from ..kv_cache import KVCache
from ..memory import format_size, parse_size, process_bytes
from ..pool import MemoryPool, charge_of
from ..session import WARM_UP_BYTES, Guard
from .available import available_bytes
from .images import Progress
from .lookups import open_shard
from .pool import StreamingPool, loading_bytes

SMALLEST = "min"
POOL_POLICIES = ("resident", "lru")
SHORT_PROMPT = 64  # tokens for which a poolsize that an error names is enough
AUTOMATIC_SHARE = 0.8  # of the memory that is available
AnySharer = TypeVar("AnySharer", bound="Sharer")


class Sharer(Protocol):
    """A pool that shares the promise with the pools of other models."""

    def needs(self) -> tuple[int, int]:
        """Return the fewest bytes it can work with, and the most it can use."""

    def resize(self, budget: int) -> None:
        """Change the budget."""


class Promise:
    """The memory that the whole process may use. The first model fixes it; the pools of all models share it.

    `total` is None if each pool should hold as little as possible.
    """

    def __init__(self, total: int | None, fixed: int) -> None:
        self.total = total
        self.process = os.getpid()
        self._fixed = fixed  # without what models have beside their pools: tokenizer, configuration
        self._joining = self._before = 0
        self._pools: weakref.WeakKeyDictionary[Any, tuple[Guard, int]] = weakref.WeakKeyDictionary()

    @property
    def fixed(self) -> int:
        """The memory of everything but the pools, in bytes."""
        return self._fixed + self._joining + sum(beside for _, beside in self._pools.values())

    def expect(self) -> None:
        """Prepare for loading a model: memory that the process takes from now on counts as memory of this model."""
        for pool in list(self._pools):
            if isinstance(pool, StreamingPool):
                pool.wait()
        self._joining, self._before = 0, process_bytes()

    def count(self) -> None:
        """Measure the memory that the model being loaded takes besides its pool."""
        self._joining = max(0, process_bytes() - self._before)

    def admit(self, needs: tuple[int, int], guard: Guard, make: Callable[[int], AnySharer]) -> AnySharer:
        """Make a pool with `make(budget)` and return it; the other pools shrink to their new shares first.

        Args:
            needs: of the new pool; see `Sharer.needs`.
            guard: of the model. Its pool is only resized while no thread is using the model.
            make: makes the pool, given its share in bytes.

        Raises:
            PoolTooSmallError: there is no room for another model.
            ModelStateError: another thread is using a model whose pool has to shrink.
        """
        try:
            made = make(self._settle(needs))
        except BaseException:
            self._joining = 0
            self._settle()  # the other pools get their old shares back
            raise
        self._pools[made], self._joining = (guard, self._joining), 0
        return made

    def leave(self, pool: Sharer) -> None:
        """Divide the share of a closed pool among the others; a pool in use by another thread gets it later."""
        self._pools.pop(pool, None)
        self._settle()

    def _settle(self, *needs: tuple[int, int]) -> int:
        """Divide the memory among the pools, and a new one if `needs` are given; return the share of the new one.

        Without a new one, a pool that another thread is using keeps its share until the next time.
        """
        if self.total is None:
            return 0
        pools = list(self._pools.items())
        shares = self._shares([*(pool.needs() for pool, _ in pools), *needs])
        for (pool, (guard, _)), share in zip(pools, shares, strict=False):
            with contextlib.suppress(*(() if needs else (ModelStateError,))), guard:
                pool.resize(share)
        return shares[-1] if needs else 0

    @property
    def kept(self) -> bool:
        """Whether any open model still relies on it."""
        return bool(self._pools)

    def _shares(self, needs: Sequence[tuple[int, int]]) -> list[int]:
        """Return a budget for each pool: the least it needs, and a part of the rest in proportion to its size."""
        whole = (self.total or 0) - self.fixed
        least, most = (sum(column) for column in zip(*needs, strict=True)) if needs else (0, 0)
        if len(needs) > 1 and least > whole:
            raise PoolTooSmallError(
                f"the models of this process need at least {format_size(least + self.fixed)} together, but the "
                f"poolsize is {format_size(self.total or 0)}; close one, or start again with a larger poolsize"
            )
        base = 1 if most <= whole else 0  # if everything fits, each gets all it can use and a part of the rest
        spare = whole - (most if base else least)
        return [pair[base] + spare * pair[1] // most for pair in needs]


_current: Promise | None = None
_loading = threading.RLock()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one thread at a time load a model, because its share depends on the models that are already loaded.

    Raises:
        ModelStateError: another thread is loading a model.
    """
    if not _loading.acquire(blocking=False):
        raise ModelStateError("another thread is loading a model; wait for it")
    try:
        yield
    finally:
        _loading.release()


def promised(poolsize: str | float | None) -> Promise:
    """Return the promise of this process. Make a new one if no model relies on an earlier one.

    Args:
        poolsize: a number of GiB, a text with a unit, 'min' for as little as possible, or None for 80 % of the
            available memory.

    Raises:
        RequestError: poolsize is not a size, or differs from the poolsize of the loaded models.
    """
    global _current
    total = None if poolsize in (None, SMALLEST) else parse_size(poolsize)
    if _current is not None and _current.kept:
        gc.collect()  # a model without references may not be deleted yet
    if _current is not None and _current.kept and _current.process == os.getpid():
        if poolsize is None or total == _current.total:
            _current.expect()
            return _current
        size = SMALLEST if _current.total is None else format_size(_current.total)
        raise RequestError(
            f"this process already has a poolsize of {size}, which its models share; give the same one or none, "
            "or close() the models first"
        )
    fixed = process_bytes() + WARM_UP_BYTES
    if poolsize is None:
        total = fixed + int(AUTOMATIC_SHARE * available_bytes())
    _current = Promise(total, fixed)
    _current.expect()
    return _current


def open_pool(
    config: ModelConfig, promise: Promise, guard: Guard, policy: str, progress: Progress
) -> StreamingPool | MemoryPool:
    """Return a pool for a model, with a share of the promise as its budget.

    Raises:
        RequestError: an unknown policy.
        PoolTooSmallError: not even one shard at a time fits beside the rest of the process.
    """
    if policy not in POOL_POLICIES:
        raise RequestError(f"pool policy {policy!r} is not known; choose one of: {', '.join(POOL_POLICIES)}")
    promise.count()
    if promise.total is None:
        plain = policy == "lru"
        smallest = MemoryPool(config.shards, None, open_shard) if plain else StreamingPool(config, None, 0, progress)
        return promise.admit((0, 0), guard, lambda budget: smallest)
    fixed, loading = promise.fixed, max(loading_bytes(shard) for shard in config.shards)
    charges = list(map(charge_of, config.shards))
    needs = max(charges) + loading, sum(charges) + loading
    together = charge_of(config.embed) + max(map(charge_of, config.layers)) + charge_of(config.head)

    def make(budget: int) -> StreamingPool | MemoryPool:
        if policy == "resident":
            with contextlib.suppress(PoolTooSmallError):  # one shard at a time may still fit
                return StreamingPool(config, budget, fixed, progress)
        # With the larger poolsize that an error of this pool names, the pool will be a StreamingPool.
        more = together - max(charges) if policy == "resident" else 0
        return MemoryPool(config.shards, budget, open_shard, fixed + loading + more, loading)

    try:
        return promise.admit(needs, guard, make)
    except PoolTooSmallError as error:
        if promise.kept:
            raise
        context = min(SHORT_PROMPT, config.context_length)
        first = pass_bytes(config, [Run(1, context, context)], 1, context) + KVCache(config, context).bytes_with(
            [context]
        )
        raise PoolTooSmallError(
            f"a poolsize of {format_size(promise.total)} is too small for this model: the program itself takes "
            f"{format_size(fixed)} and one shard {format_size(max(charges) + loading)} while it is loaded; "
            f"give at least {format_size(fixed + loading + max(charges) + first)}"
        ) from error
