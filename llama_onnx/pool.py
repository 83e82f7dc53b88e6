"""The memory pool: keeps shards loaded within a budget in bytes, and evicts the least recently used one first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

from .config import Shard
from .errors import PoolTooSmallError
from .memory import format_size, trim
from .session import SESSION_BYTES, Session

PATIENCE = 64  # reservations that need less, after which the high-water mark falls


@dataclass
class PoolStats:
    """Counts since the pool was made: `loaded_bytes` of every load, `resident_bytes` of what is loaded now."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    loaded_bytes: int = 0
    resident_bytes: int = 0
    peak_resident_bytes: int = 0


class Pool(Protocol):
    """The interface of a pool."""

    stats: PoolStats

    def use(self, shard: Shard) -> AbstractContextManager[Session]:
        """Borrow the session of a shard; load it first if needed."""

    def reserved(self, size: int = 0) -> Reservation:
        """Set `size` bytes of the budget aside for the caller, evicting shards if needed."""

    def resident(self, shard: Shard) -> bool:
        """Return whether a shard is loaded now."""

    def snapshot(self) -> dict[str, int | str]:
        """Return the budget and the counts, ready to print or to write as JSON."""

    def close(self) -> None:
        """Unload everything."""


class Reservation(AbstractContextManager["Reservation"]):
    """Bytes of a pool's budget that one holder (a cache, a draft table) keeps until it is closed or deleted."""

    def __init__(self, holders: Reservations, size: int = 0) -> None:
        self.size = 0
        self._holders = holders
        self.grow(size)

    def hold(self, size: int) -> None:
        """Change the size to `size` bytes, or change nothing and raise PoolTooSmallError if no shard would fit."""
        self._holders.change(self, size)

    def grow(self, size: int) -> None:
        """Hold at least `size` bytes; see `hold`."""
        if size > self.size:
            self.hold(size)

    def close(self) -> None:
        """Return all bytes to the pool."""
        self._holders.end(self)

    __del__ = close

    def __exit__(self, *_: object) -> None:
        self.close()


class Reservations:
    """The reservations of all holders of a pool; `changed(total, high water)` makes room for them, or raises.

    The high-water mark stays set aside, so that the next request, which will need about as much, evicts nothing. It
    falls after `PATIENCE` reservations that need less, and, when all holders have closed, to the most that they needed.
    """

    def __init__(self, changed: Callable[[int, int], None]) -> None:
        self.total = self.high_water = self._peak = self._quiet = 0
        self._changed = changed

    def change(self, holder: Reservation, size: int) -> None:
        """Set the size of one reservation; see `Reservation.hold`."""
        total = self.total - holder.size + size
        self._quiet = self._quiet + 1 if total < self.high_water else 0
        high_water = total if self._quiet > PATIENCE else max(self.high_water, total)
        if (total, high_water) != (self.total, self.high_water):
            self._changed(total, high_water)
        self.total += size - holder.size  # other holders may have closed in the meantime
        self.high_water, self._peak, holder.size = high_water, max(self._peak, total), size

    def end(self, holder: Reservation) -> None:
        """Return the bytes of one reservation to the budget."""
        self.total -= holder.size
        holder.size = 0
        if self._peak and not self.total:
            self.high_water, self._peak = min(self.high_water, self._peak), 0


class MemoryPool:
    """A `Pool` that evicts in least-recently-used order; a shard in use is never evicted.

    The budget covers the loaded shards and all reservations (such as the KV cache).
    """

    def __init__(
        self, shards: Iterable[Shard], budget: int | None, load: Callable[[Shard], Session] = Session,
        fixed_bytes: int = 0, loading_bytes: int = 0,
    ) -> None:  # fmt: skip
        """Make an empty pool for `shards`; `load` makes their sessions.

        Args:
            budget: bytes; None means the largest shard alone, with the reserved bytes on top.
            fixed_bytes: memory of the rest of the process; used only in error messages.
            loading_bytes: extra memory while a shard is being loaded; set aside once.
        """
        self.stats = PoolStats()
        self.reservations = Reservations(self._reserve)
        self._charges = {shard.name: charge_of(shard) for shard in shards}
        self._largest = max(self._charges.values())
        self._loaded: OrderedDict[str, Session] = OrderedDict()
        self._in_use: Counter[str] = Counter()
        self._load, self._fixed_bytes, self._loading_bytes = load, fixed_bytes, loading_bytes
        self._smallest = budget is None
        self._budget = self._largest if budget is None else budget - loading_bytes
        self._reserve(0)

    @property
    def budget(self) -> int:
        """Bytes that loaded shards and reserved bytes may take together."""
        return self._budget + self.reservations.total * self._smallest

    @contextmanager
    def use(self, shard: Shard) -> Iterator[Session]:
        name, stats = shard.name, self.stats
        if name in self._loaded:
            stats.hits += 1
            self._loaded.move_to_end(name)
        else:
            stats.misses += 1
            self._make_room(self.reservations.total + self._charges[name])
            self._loaded[name] = self._load(shard)
            stats.loaded_bytes += self._charges[name]
            stats.resident_bytes += self._charges[name]
            stats.peak_resident_bytes = max(stats.peak_resident_bytes, stats.resident_bytes)
        self._in_use[name] += 1
        try:
            yield self._loaded[name]
        finally:
            self._in_use[name] -= 1

    def reserved(self, size: int = 0) -> Reservation:
        return Reservation(self.reservations, size)

    def resident(self, shard: Shard) -> bool:
        return shard.name in self._loaded

    def needs(self) -> tuple[int, int]:
        """Return the fewest bytes this pool can work with, and the most it can use; see `streaming.promise`."""
        beside = self._loading_bytes + self.reservations.total
        return self._largest + beside, sum(self._charges.values()) + beside

    def resize(self, budget: int) -> None:
        """Change the budget and evict shards if needed; see `streaming.promise`."""
        self._budget = budget - self._loading_bytes
        self._reserve(self.reservations.total)

    def close(self) -> None:
        """Unload every shard that is not in use."""
        for name in [name for name in self._loaded if not self._in_use[name]]:
            self._evict(name)

    def snapshot(self) -> dict[str, int | str]:
        now = {"budget": self.budget, "reserved": self.reservations.total, "residents": len(self._loaded)}
        return {**now, "streams_through": "sessions", **asdict(self.stats)}

    def _reserve(self, total: int, high_water: int = 0) -> None:
        # The high-water mark is ignored: nothing is loaded early, so free bytes go to whichever shard is used next.
        if self._smallest:
            return
        if self._largest + total > self.budget:
            name = max(self._charges, key=self._charges.__getitem__)
            beside = f" beside {format_size(total)} of KV cache"
            raise PoolTooSmallError(
                f"the pool is too small: shard {name} needs {format_size(self._largest)}{beside * bool(total)}, "
                f"but the budget is {format_size(self.budget)}; give a poolsize of at least "
                f"{format_size(self._largest + total + self._fixed_bytes)}"
            )
        self._make_room(total)

    def _make_room(self, size: int) -> None:
        while self.stats.resident_bytes + size > self.budget:
            idle = next((name for name in self._loaded if not self._in_use[name]), None)
            if idle is None:
                budget = format_size(self.budget)
                raise PoolTooSmallError(f"the shards in use take the whole budget of {budget}; give a larger poolsize")
            self._evict(idle)

    def _evict(self, name: str) -> None:
        del self._loaded[name]
        self.stats.resident_bytes -= self._charges[name]
        self.stats.evictions += 1
        trim()


def charge_of(shard: Shard) -> int:
    """Return the bytes charged for a loaded shard: its weights, and the session around them."""
    return shard.loaded_bytes + SESSION_BYTES
