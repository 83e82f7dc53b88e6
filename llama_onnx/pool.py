"""The memory pool: which shards are loaded, under a budget in bytes, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

from .config import Shard
from .errors import PoolTooSmallError
from .memory import format_size, trim
from .session import SESSION_BYTES, Session


@dataclass
class PoolStats:
    """Counts since the pool was made. `loaded_bytes` sums every load; `resident_bytes` is what is loaded now."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    loaded_bytes: int = 0
    resident_bytes: int = 0
    peak_resident_bytes: int = 0


class Pool(Protocol):
    """What the decoder asks of a pool."""

    stats: PoolStats

    def use(self, shard: Shard) -> AbstractContextManager[Session]:
        """Lend the session of a shard, loading it first where needed."""

    def reserve(self, size: int) -> None:
        """Set `size` bytes of the budget aside for others, replacing what was set aside before."""

    def as_dict(self) -> dict[str, int | str]:
        """Return the counts, with the budget, for people and JSON."""


@dataclass
class _Resident:
    session: Session
    charge: int
    users: int = 0


class MemoryPool:
    """Loaded shards under a byte budget, evicted in least-recently-used order; a shard in use is never evicted.

    The budget covers the loaded shards and whatever `reserve` sets aside for others (the KV cache).
    """

    def __init__(
        self, shards: Iterable[Shard], budget: int, load: Callable[[Shard], Session] = Session, fixed_bytes: int = 0
    ) -> None:
        """Make an empty pool.

        Args:
            shards: all shards that will be asked for.
            budget: bytes the loaded shards and the reserved bytes may take together.
            load: makes a session of a shard.
            fixed_bytes: what the rest of the process takes; only named in error messages.

        Raises:
            PoolTooSmallError: the largest shard alone is over the budget.
        """
        self.budget = budget
        self.stats = PoolStats()
        self._largest = max(shards, key=charge_of)
        self._load = load
        self._fixed_bytes = fixed_bytes
        self._reserved = 0
        self._reserve_on_top = False
        self._residents: OrderedDict[str, _Resident] = OrderedDict()
        self._check_room(0)

    @classmethod
    def smallest(cls, shards: Iterable[Shard]) -> MemoryPool:
        """Return a pool with room for the largest shard only; what is reserved comes on top of its budget."""
        shards = list(shards)
        pool = cls(shards, max(map(charge_of, shards)))
        pool._reserve_on_top = True
        return pool

    @contextmanager
    def use(self, shard: Shard) -> Iterator[Session]:
        """Lend the session of a shard, loading it (and evicting others) first where needed."""
        resident = self._residents.get(shard.name)
        if resident:
            self.stats.hits += 1
            self._residents.move_to_end(shard.name)
        else:
            self.stats.misses += 1
            resident = self._admit(shard)
        resident.users += 1
        try:
            yield resident.session
        finally:
            resident.users -= 1

    def reserve(self, size: int) -> None:
        """Set `size` bytes of the budget aside (replacing what was set aside before), evicting shards if needed.

        Raises:
            PoolTooSmallError: the largest shard would not fit any more; nothing has changed then.
        """
        if size != self._reserved:
            if self._reserve_on_top:
                self.budget += size - self._reserved
            self._check_room(size)
            self._reserved = size
            self._make_room(0)

    def clear(self) -> None:
        """Unload every shard that is not in use."""
        for name in [name for name, resident in self._residents.items() if not resident.users]:
            self._evict(name)

    def as_dict(self) -> dict[str, int | str]:
        """Return the counts, with the budget, for people and JSON."""
        return {"budget": self.budget, "reserved": self._reserved, **asdict(self.stats)}

    def _admit(self, shard: Shard) -> _Resident:
        charge = charge_of(shard)
        self._make_room(charge)
        resident = _Resident(self._load(shard), charge)
        self._residents[shard.name] = resident
        self.stats.loaded_bytes += charge
        self.stats.resident_bytes += charge
        self.stats.peak_resident_bytes = max(self.stats.peak_resident_bytes, self.stats.resident_bytes)
        return resident

    def _make_room(self, size: int) -> None:
        while self.stats.resident_bytes + self._reserved + size > self.budget:
            idle = next((name for name, resident in self._residents.items() if not resident.users), None)
            if idle is None:
                raise PoolTooSmallError(
                    f"the shards in use take {format_size(self.stats.resident_bytes)}, {format_size(size)} more does "
                    f"not fit into the pool's {format_size(self.budget)}; give a larger poolsize"
                )
            self._evict(idle)

    def _evict(self, name: str) -> None:
        resident = self._residents.pop(name)
        self.stats.resident_bytes -= resident.charge
        self.stats.evictions += 1
        del resident
        trim()

    def _check_room(self, reserved: int) -> None:
        needed = charge_of(self._largest) + reserved
        if needed > self.budget:
            raise PoolTooSmallError(
                f"the pool is too small: shard {self._largest.name} needs {format_size(charge_of(self._largest))}"
                + (f" beside {format_size(reserved)} of KV cache" if reserved else "")
                + f", {format_size(self.budget)} are free for it; a poolsize of at least "
                f"{format_size(needed + self._fixed_bytes)} is needed"
            )


def charge_of(shard: Shard) -> int:
    """Bytes the pool charges for a loaded shard: its weights as loaded, and the session around them."""
    return shard.loaded_bytes + SESSION_BYTES
