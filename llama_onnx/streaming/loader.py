"""The loader: a thread that fills places with shards ahead of the loop.

A step runs the shards in a circle, so which one is needed when is known: the loader always works on the one that is
needed soonest, in the place whose shard is needed last.
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


class Place(Protocol):
    """Where a shard can be loaded, again and again."""

    @property
    def kind(self) -> str | None:
        """The kind of shard it takes; None means any."""

    def fill(self, shard: Shard) -> Session:
        """Load a shard, in place of the one before it."""

    def clear(self) -> None:
        """Give the memory back."""


@dataclass
class Held:
    """A place and what is in it."""

    place: Place
    charge: int
    resident: bool
    shard: Shard | None = None
    session: Session | None = None
    users: int = 0
    loading: bool = False
    fresh: bool = False


class Loader:
    """Fills places on a thread of its own, always with the shard that the circle reaches first."""

    def __init__(self, circle: Sequence[Shard], stats: PoolStats) -> None:
        self._circle = list(circle)
        self._index = {shard.name: i for i, shard in enumerate(circle)}
        self._stats = stats
        self._owner = os.getpid()
        self._held: list[Held] = []
        # Residents that were used: these are lent without asking the thread.
        self._staying: dict[str, AbstractContextManager[Session]] = {}
        self._cursor = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, held: Held) -> None:
        """Give the loader one more place; a resident one is for its `shard` alone."""
        with self._changed:
            self._held.append(held)
            self._changed.notify_all()

    def places(self) -> list[Held]:
        """Return all places there are."""
        with self._changed:
            return list(self._held)

    def load(self, held: Held) -> None:
        """Load the shard of a resident place now, on the caller's thread.

        Raises:
            LlamaOnnxError: it cannot be loaded.
        """
        if held.session is None and held.shard:
            held.session = held.place.fill(held.shard)
            self._count_load(held)

    def take(self, held: Held) -> None:
        """Take a place away, when what is being loaded into it has come."""
        with self._changed:
            self._changed.wait_for(lambda: not held.loading)
            self._held.remove(held)

    def remove(self, name: str) -> Held | None:
        """Take the place of a resident shard away and return it."""
        self._staying.pop(name, None)
        with self._changed:
            held = next((h for h in self._held if h.resident and h.shard and h.shard.name == name), None)
            if held:
                self._changed.wait_for(lambda: not held.loading)
                self._held.remove(held)
            return held

    def use(self, shard: Shard) -> AbstractContextManager[Session]:
        """Lend the session of a shard, waiting for it where necessary.

        Raises:
            LlamaOnnxError: it could not be loaded.
        """
        session = self._staying.get(shard.name)
        if session is None:
            return self._lend(shard)
        self._stats.hits += 1
        return session

    @contextmanager
    def _lend(self, shard: Shard) -> Iterator[Session]:
        held = self._await(shard)
        try:
            assert held.session is not None
            yield held.session
        finally:
            with self._changed:
                held.users -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Stop the thread and clear all places. Does nothing in a forked child: the places are its parent's."""
        if os.getpid() != self._owner:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()
        self._staying.clear()
        for held in self._held:
            held.session = None
            held.place.clear()
        self._held.clear()

    def _await(self, shard: Shard) -> Held:
        with self._changed:
            self._start()
            self._cursor = self._index[shard.name]
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._loaded(shard) or self._error)
            held = self._loaded(shard)
            if held is None:
                error, self._error = self._error, None
                raise error or AssertionError("neither loaded nor failed")
            held.users += 1
            if not held.fresh:
                self._stats.hits += 1
            held.fresh = False
            if held.resident and held.session:
                self._staying[shard.name] = nullcontext(held.session)
            self._cursor = (self._cursor + 1) % len(self._circle)  # load ahead while this one is computed
            self._changed.notify_all()
            return held

    def _loaded(self, shard: Shard) -> Held | None:
        return next((h for h in self._held if h.session and h.shard is shard and not h.loading), None)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shard loader", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._error is None and self._next()))
                if self._closed:
                    return
                task = self._next()
                assert task is not None
                held, shard = task
                held.shard, held.session, held.loading = shard, None, True
            session, error = None, None
            try:
                session = held.place.fill(shard)
            except LlamaOnnxError as failure:
                error = failure
            except BaseException as failure:  # must not die silently: the loop would wait for ever
                error = LlamaOnnxError(f"{shard.path}: cannot be loaded: {failure}")
            with self._changed:
                held.loading, held.session, self._error = False, session, error
                if session:
                    self._count_load(held)
                self._changed.notify_all()

    def _count_load(self, held: Held) -> None:
        held.fresh = True
        self._stats.misses += 1
        self._stats.loaded_bytes += held.charge

    def _next(self) -> tuple[Held, Shard] | None:
        """Return the next shard to load and the place to load it into, if there is one."""
        loaded = {h.shard.name for h in self._held if h.shard and (h.session or h.loading)}
        residents = {h.shard.name: h for h in self._held if h.resident and h.shard}
        for distance in range(len(self._circle)):
            shard = self._circle[(self._cursor + distance) % len(self._circle)]
            if shard.name in loaded:
                continue
            held = residents.get(shard.name) or self._free_place(shard, distance)
            if held:
                return held, shard
        return None

    def _free_place(self, shard: Shard, distance: int) -> Held | None:
        """Return the place whose shard is needed last, if that is later than this one is needed."""
        best, latest = None, distance
        for held in self._held:
            if held.resident or held.users or held.loading or held.place.kind not in (None, shard.kind):
                continue
            if held.session is None or held.shard is None:
                return held
            away = (self._index[held.shard.name] - self._cursor) % len(self._circle)
            if away > latest:
                best, latest = held, away
        return best


class SessionPlace:
    """A place that makes a new session for every load."""

    kind: str | None = None

    def __init__(self, fold: bool = True) -> None:
        self._fold = fold

    def fill(self, shard: Shard) -> Session:
        """Load a shard into a session of its own."""
        return Session(shard, fold=self._fold)

    def clear(self) -> None:
        """Give the heap of the sessions that were here back."""
        trim()
