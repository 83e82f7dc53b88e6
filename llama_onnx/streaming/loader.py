"""The loader: a thread that loads shards before the loop needs them.

Every step runs the shards in the same order, in a circle, so the loader knows which one is needed when. It always loads
the shard that is needed soonest, into the place whose shard is needed last.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from ..config import Shard
from ..errors import LlamaOnnxError
from ..memory import trim
from ..pool import PoolStats
from ..session import Session
from .lookups import open_shard


class Place(Protocol):
    """Where shards are loaded, one after another."""

    @property
    def kind(self) -> str | None:
        """The kind of shard that fits; None means any."""

    def fill(self, shard: Shard) -> Session:
        """Load a shard, replacing the previous one."""

    def clear(self) -> None:
        """Free the memory."""


@dataclass
class Entry:
    """A place, what is in it, and what it counts in the budget.

    Attributes:
        charge: bytes of the budget.
        resident: whether the place belongs to one shard permanently.
        users: how many callers have borrowed the session.
        fresh: whether the shard was loaded and not yet used; its first use is not a hit.
    """

    place: Place
    charge: int
    resident: bool
    shard: Shard | None = None
    session: Session | None = None
    users: int = 0
    loading: bool = False
    fresh: bool = False


class Loader:
    """Fills places on a background thread, always with the missing shard that is needed soonest."""

    def __init__(self, circle: Sequence[Shard], stats: PoolStats) -> None:
        self._circle = list(circle)
        self._index = {shard.name: i for i, shard in enumerate(circle)}
        self._stats = stats
        self._owner = os.getpid()
        self._entries: list[Entry] = []
        # Residents that were used before: they are borrowed without waking the thread.
        self._used_residents: dict[str, AbstractContextManager[Session]] = {}
        self._cursor = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._closed = self._paused = False
        self._thread: threading.Thread | None = None

    def add(self, entry: Entry) -> None:
        """Add a place. A resident one is for its `shard` only."""
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def places(self) -> list[Entry]:
        """Return all places."""
        with self._changed:
            return list(self._entries)

    def load(self, entry: Entry) -> None:
        """Load the shard of a resident place now, on the caller's thread.

        Raises:
            LlamaOnnxError: the shard cannot be loaded.
        """
        if entry.session is None and entry.shard:
            entry.session = entry.place.fill(entry.shard)
            self._count_load(entry)

    def take(self, entry: Entry) -> None:
        """Remove a place, after waiting for a load into it to finish."""
        with self._changed:
            self._changed.wait_for(lambda: not entry.loading)
            self._entries.remove(entry)

    def remove(self, name: str) -> Entry | None:
        """Remove the place of a resident shard and return it; None if there is none."""
        self._used_residents.pop(name, None)
        with self._changed:
            entry = next((e for e in self._entries if e.resident and e.shard and e.shard.name == name), None)
            if entry:
                self._changed.wait_for(lambda: not entry.loading)
                self._entries.remove(entry)
            return entry

    def pause(self) -> None:
        """Load nothing until `resume`; wait for the load that is running."""
        with self._changed:
            self._paused = True
            self._changed.wait_for(lambda: not any(entry.loading for entry in self._entries))

    def resume(self) -> None:
        """Load again."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def wait(self, seconds: float = 5) -> None:
        """Wait until the thread has nothing to load, at most `seconds`, because the token loop may be running."""
        with self._changed:
            if self._thread:
                self._changed.wait_for(lambda: self._error or self._closed or not self._busy(), seconds)

    def _busy(self) -> bool:
        return any(entry.loading for entry in self._entries) or not (self._paused or self._next() is None)

    def use(self, shard: Shard) -> AbstractContextManager[Session]:
        """Borrow the session of a shard, waiting until it is loaded.

        Raises:
            LlamaOnnxError: the shard could not be loaded.
        """
        session = self._used_residents.get(shard.name)
        if session is None:
            return self._borrow(shard)
        self._stats.hits += 1
        return session

    @contextmanager
    def _borrow(self, shard: Shard) -> Iterator[Session]:
        entry = self._await(shard)
        try:
            assert entry.session is not None
            yield entry.session
        finally:
            with self._changed:
                entry.users -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Stop the thread and clear all places. Does nothing in a forked child, because the places are its parent's."""
        if os.getpid() != self._owner:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread and self._thread is not threading.current_thread():  # which may collect the pool itself
            self._thread.join()
        self._used_residents.clear()
        for entry in self._entries:
            entry.session = None
            entry.place.clear()
        self._entries.clear()

    def _await(self, shard: Shard) -> Entry:
        with self._changed:
            self._start()
            self._cursor = self._index[shard.name]
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._loaded(shard) or self._error)
            entry = self._loaded(shard)
            if entry is None:
                error, self._error = self._error, None
                raise error or AssertionError("neither loaded nor failed")
            entry.users += 1
            if not entry.fresh:
                self._stats.hits += 1
            entry.fresh = False
            if entry.resident and entry.session:
                self._used_residents[shard.name] = nullcontext(entry.session)
            self._cursor = (self._cursor + 1) % len(self._circle)  # load the next one while this one computes
            self._changed.notify_all()
            return entry

    def _loaded(self, shard: Shard) -> Entry | None:
        return next((e for e in self._entries if e.session and e.shard is shard and not e.loading), None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shard loader", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (not (self._paused or self._error) and self._next()))
                if self._closed:
                    return
                task = self._next()
                assert task is not None
                entry, shard = task
                entry.shard, entry.session, entry.loading = shard, None, True
            session, error = None, None
            try:
                session = entry.place.fill(shard)
            except LlamaOnnxError as failure:
                error = failure
            except BaseException as failure:  # if the thread died silently, the loop would wait forever
                error = LlamaOnnxError(f"{shard.path}: cannot be loaded: {failure}")
            with self._changed:
                entry.loading, entry.session, self._error = False, session, error
                if session:
                    self._count_load(entry)
                self._changed.notify_all()

    def _count_load(self, entry: Entry) -> None:
        entry.fresh = True
        self._stats.misses += 1
        self._stats.loaded_bytes += entry.charge

    def _next(self) -> tuple[Entry, Shard] | None:
        """Return the next shard to load and where to load it; None if there is nothing to load, or no free place."""
        loaded = {e.shard.name for e in self._entries if e.shard and (e.session or e.loading)}
        residents = {e.shard.name: e for e in self._entries if e.resident and e.shard}
        for distance in range(len(self._circle)):
            shard = self._circle[(self._cursor + distance) % len(self._circle)]
            if shard.name in loaded:
                continue
            entry = residents.get(shard.name) or self._free_place(shard, distance)
            if entry:
                return entry, shard
        return None

    def _free_place(self, shard: Shard, distance: int) -> Entry | None:
        """Return an empty place, or the one whose shard is needed last; None if none is needed later than `shard`.

        `distance` is how many shards the loop runs before this one.
        """
        best, latest = None, distance
        for entry in self._entries:
            if entry.resident or entry.users or entry.loading or entry.place.kind not in (None, shard.kind):
                continue
            if entry.session is None or entry.shard is None:
                return entry
            away = (self._index[entry.shard.name] - self._cursor) % len(self._circle)
            if away > latest:
                best, latest = entry, away
        return best


class SessionPlace:
    """A place in which every load makes a new session."""

    kind: str | None = None

    def __init__(self, fold: bool = True) -> None:
        self._fold = fold

    def fill(self, shard: Shard) -> Session:
        """Make a session of a shard."""
        return open_shard(shard, self._fold)

    def clear(self) -> None:
        """Return the heap memory of earlier sessions to the system."""
        trim()
