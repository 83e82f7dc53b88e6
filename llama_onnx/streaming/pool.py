"""The streaming pool: shards that fit stay loaded; the others stream through a few places, filled ahead of the loop.

Every step visits the shards in the same circular order, so the least recently used shard is always the next one needed,
and a plain LRU pool that is too small never hits. This pool keeps as many layers resident as the budget allows; see
`plan.py`.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace

from ..config import ModelConfig, Shard
from ..errors import LlamaOnnxError, PoolTooSmallError
from ..memory import format_size
from ..pool import PoolStats, Reservation, Reservations, charge_of
from ..session import SESSION_BYTES, Session
from .images import Progress
from .loader import Entry, Loader, Place, SessionPlace
from .plan import Costs, Plan, best_plan
from .slots import SlotFolder, SlotPlace, open_slots

log = logging.getLogger(__name__)
ANY = ""  # the kind of all layers where they stream through sessions


class StreamingPool:
    """The shards of a model under a byte budget: residents, and a window of places that are filled ahead of use."""

    def __init__(
        self,
        config: ModelConfig,
        budget: int | None,
        fixed_bytes: int = 0,
        progress: Progress = lambda doing, done, total: None,
        use_slots: bool = True,
    ) -> None:
        """Make a plan. If layers have to be streamed, try slots first. No shard is loaded yet.

        Args:
            config: of the model.
            budget: the most bytes for the loaded shards, the extra memory of loading and the reserved bytes together;
                None means as few as possible: one layer at a time, with the reserved bytes on top.
            fixed_bytes: memory of the rest of the process; used only in error messages.
            progress: called with (doing, done, total) while packed images are made and while the first pass loads the
                shards.
            use_slots: False makes a new session for each load.

        Raises:
            PoolTooSmallError: embed, head and one layer do not fit together.
        """
        self._budget = 0 if budget is None else budget
        self.stats = PoolStats()
        self._smallest = budget is None
        self._config = config
        self._layers = frozenset(shard.name for shard in config.layers)
        self._others = [shard for shard in config.shards if shard.name not in self._layers]
        self._kinds: dict[str, list[Shard]] = {}
        for shard in config.layers:
            self._kinds.setdefault(shard.kind, []).append(shard)
        self._alike = [replace(shard, kind=ANY) for shard in config.layers]  # a session takes a layer of any kind
        self._fixed_bytes = fixed_bytes
        self._progress = progress
        self.reservations = Reservations(self._reserve)
        self._loading = max(loading_bytes(shard) for shard in config.shards)  # extra, while a session is made
        # Without room to fold them, float16 weights are cast while a shard runs, one shard at a time.
        self._fold = sum(map(charge_of, config.shards)) + self._loading <= self.budget
        self._casting = max(shard.loaded_bytes - shard.mapped_bytes for shard in config.shards)
        self._loader = Loader(config.shards, self.stats)
        self._try_slots = use_slots and all(self._kinds)
        self._slots: SlotFolder | None = None
        self._slots_stay = False  # residents are in slots too
        self._slot_charges: dict[str, int] = {}  # by kind
        self._plan = Plan(frozenset(), ())
        self._prepared = False
        self._unused = {shard.name for shard in config.shards}  # until the first pass ends
        self._window: list[Entry] = []
        self._at_exit = weakref.finalize(self, self._loader.close)  # when the process ends, at the latest
        try:
            self._plan_for(0, 0)
        except BaseException:
            self.close()  # slots may have been tried
            raise

    @property
    def budget(self) -> int:
        """Bytes that loaded shards and reserved bytes may take together."""
        return self._budget + (self.reservations.total if self._smallest else 0)

    @property
    def streams_through(self) -> str:
        """'slots', 'sessions', or 'nothing' when every shard is resident."""
        return "nothing" if not self._plan.places else "slots" if self._slots else "sessions"

    def use(self, shard: Shard) -> AbstractContextManager[Session]:
        """Borrow the session of a shard; wait until it is loaded."""
        if self._unused or not self._prepared:
            self._first_use(shard)
        return self._loader.use(shard)

    def reserved(self, size: int = 0) -> Reservation:
        """Set `size` bytes of the budget aside for the caller; residents are evicted if needed.

        Raises:
            PoolTooSmallError: embed, head and one layer would no longer fit. Nothing has changed.
        """
        return Reservation(self.reservations, size)

    def _reserve(self, total: int, high_water: int) -> None:
        if self._smallest:
            return
        if high_water not in self._plan.holds:
            self._plan_for(total, high_water)

    def needs(self) -> tuple[int, int]:
        """Return the fewest bytes this pool can work with, and the most it can use; see `promise.py`."""
        costs, reserved = self._costs(), self.reservations.total
        return costs.least(reserved), costs.most + reserved

    def resize(self, budget: int) -> None:
        """Change the budget; see `promise.py`.

        Raises:
            PoolTooSmallError: embed, head and one layer would no longer fit. Nothing has changed.
        """
        if budget != self.budget and not self._smallest:
            before, self._budget = self._budget, budget
            try:
                self._plan_for(self.reservations.total, self.reservations.high_water)
            except PoolTooSmallError:
                self._budget = before
                self._plan_for(self.reservations.total, self.reservations.high_water)
                raise

    def wait(self) -> None:
        """Wait until the loader has nothing to read ahead."""
        self._loader.wait()

    def resident(self, shard: Shard) -> bool:
        """Return whether a shard is loaded now."""
        return any(held.session and held.shard is shard for held in self._loader.places())

    def close(self) -> None:
        """Unload everything and remove the slots' files."""
        self._at_exit()
        if self._slots:
            self._slots.close()

    def snapshot(self) -> dict[str, int | str]:
        """Return the budget and the counts, ready to print or to write as JSON."""
        return {
            "budget": self.budget,
            "reserved": self.reservations.total,
            "residents": len(self._plan.residents),
            "streams_through": self.streams_through,
            **asdict(self.stats),
        }

    def _plan_for(self, total: int, high_water: int) -> None:
        """Leave room for the high-water mark of the reservations if possible, else only for what is reserved now."""
        before, plan = self._plan, self._best_plan(total, high_water)
        mapped = sum(shard.mapped_bytes for shard in self._others)
        mapped += max(shard.mapped_bytes for shard in self._config.layers)
        try:
            if self._try_slots and (plan is None or plan.places) and (self._smallest or mapped + total <= self.budget):
                self._open_slots()
                plan = self._best_plan(total, high_water)
            if plan is None:
                costs = self._costs()
                each = " of each kind" * (len(costs.place) > 1)
                raise PoolTooSmallError(
                    f"embedding, head and one layer{each} at a time need {format_size(costs.least(total) - total)}, "
                    f"but only {format_size(max(self.budget - total, 0))} are left; give a poolsize of at least "
                    f"{format_size(costs.least(total) + self._fixed_bytes)}"
                )
        except BaseException:
            if self._plan is not before and before.bytes:  # trying slots has evicted the layers
                self._apply(self._best_plan(self.reservations.total, self.reservations.high_water) or before)
            raise
        self._apply(plan)

    def _best_plan(self, total: int, high_water: int) -> Plan | None:
        costs, room = self._costs(), None if self._smallest else self.budget
        if room is not None and not self._slots and (spare := room - costs.most) >= high_water:
            return Plan(frozenset(shard.name for shard in self._config.shards), (), costs.most, range(spare + 1))
        layers = self._config.layers if self._slots else self._alike
        return best_plan(self._others, layers, costs, room, high_water) or best_plan(
            self._others, layers, costs, room, total
        )

    def _costs(self) -> Costs:
        """Return what the shards take: in sessions, or in slots once those are open."""
        beside = sum(map(self._charge, self._others))
        beside += self._casting if self._slots or not self._fold else 0  # slots hold float16 weights as they are
        beside += 0 if self._slots_stay else self._loading  # all slots are made before anything else is loaded
        making = 0
        if self._slots:
            one_of_each = [shards[0] for shards in self._kinds.values()]
            beside += max(map(self._slots.shared_bytes, one_of_each))
            making = beside + max(map(self._slots.making_bytes, one_of_each))
        stay = {shard.name: self._charge(shard) for shard in self._config.layers}
        place = {kind: self._place_charge(kind) for kind in (self._kinds if self._slots else [ANY])}
        return Costs(stay, place, beside, making, beside + sum(stay.values()))

    def _charge(self, shard: Shard) -> int:
        """Return the bytes of a resident shard: in a slot if it is packed, else in its own session."""
        if self._stays_in_slot(shard):
            return self._slot_charge(shard)
        return charge_of(shard) if self._fold else shard.mapped_bytes + SESSION_BYTES

    def _place_charge(self, kind: str) -> int:
        """Return the bytes of a place: a slot for one kind of layer, or a session of any layer."""
        return self._slot_charge(self._kinds[kind][0]) if self._slots else max(map(self._charge, self._config.layers))

    def _slot_charge(self, shard: Shard) -> int:
        assert self._slots
        if shard.kind not in self._slot_charges:
            self._slot_charges[shard.kind] = self._slots.images.get(shard).bytes + SESSION_BYTES
        return self._slot_charges[shard.kind]

    def _stays_in_slot(self, shard: Shard) -> bool:
        return self._slots_stay and shard.quantized and shard.name in self._layers

    def _open_slots(self) -> None:
        """Open slots if they work here. All layers are evicted first, because trying and making slots takes memory."""
        self._try_slots = self._prepared = False
        self._loader.pause()
        self._apply(Plan(self._plan.residents - self._layers, ()))
        try:
            self._slots = open_slots(self._config, self._progress)
        except (OSError, LlamaOnnxError, ImportError) as reason:
            log.info("streaming through a session per load, which is slower: %s", reason)
            return
        # Residents may take the whole budget, and the memory file system may be smaller than that.
        wanted = sum(map(self._slot_charge, self._config.layers))
        self._slots_stay = self._slots.free_bytes() >= min(self.budget, wanted)

    def _apply(self, plan: Plan) -> None:
        """Put a plan into effect: evict the shards that no longer stay, then add the new places."""
        self._evict(self._plan.residents - plan.residents)
        if plan.places != self._plan.places:
            for held in self._window:
                self._loader.take(held)
                self._forget(held)
            self._window = [held for kind, count in plan.places for held in self._make_places(kind, count)]
            for held in self._window:
                self._loader.add(held)
        for shard in self._config.shards:
            if shard.name in plan.residents - self._plan.residents:
                in_slot = self._slots if self._stays_in_slot(shard) else None
                place: Place = SlotPlace(in_slot, shard) if in_slot else SessionPlace(self._fold)
                self._loader.add(Entry(place, self._charge(shard), resident=True, shard=shard))
        self._plan = plan
        if self._smallest:
            self._budget = plan.bytes
        self.stats.resident_bytes = sum(held.charge for held in self._loader.places())
        self.stats.peak_resident_bytes = max(self.stats.peak_resident_bytes, self.stats.resident_bytes)

    def _first_use(self, shard: Shard) -> None:
        if not self._prepared:
            self._prepare()
        self._unused.discard(shard.name)
        total = len(self._config.shards)
        self._progress("loading", total - len(self._unused), total)

    def _prepare(self) -> None:
        """Load embed and head and make all slots before any layer is loaded: this takes extra memory for a while."""
        if self._slots:
            for held in self._loader.places():
                if held.resident and held.shard and held.shard.name not in self._layers:
                    self._loader.load(held)
            most = self._best_plan(0, 0) or self._plan
            for kind, shards in self._kinds.items():
                staying = sum(self._stays_in_slot(shard) and shard.name in most.residents for shard in shards)
                try:
                    self._slots.prepare(shards[0], staying + dict(most.places).get(kind, 0))
                except OSError as error:  # another process has filled the memory file system since the slots were tried
                    raise LlamaOnnxError(f"cannot make slots for the layers: {error}; free some memory there") from None
        self._loader.resume()
        self._prepared = True

    def _evict(self, names: Iterable[str]) -> None:
        for name in names:
            held = self._loader.remove(name)
            if held:
                self._forget(held)

    def _forget(self, held: Entry) -> None:
        held.session = None
        held.place.clear()
        self.stats.evictions += held.resident

    def _make_places(self, kind: str, count: int) -> Iterator[Entry]:
        for _ in range(count):
            place: Place = SlotPlace(self._slots, self._kinds[kind][0]) if self._slots else SessionPlace(self._fold)
            yield Entry(place, self._place_charge(kind), resident=False)


def loading_bytes(shard: Shard) -> int:
    """Return the extra bytes a shard takes while it is being loaded: its file, unless its weights stay mapped."""
    mapped = shard.loaded_bytes <= shard.file_bytes and not shard.quantized and not shard.copied
    return 0 if mapped else shard.file_bytes
