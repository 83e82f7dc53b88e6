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
from dataclasses import asdict

from ..config import ModelConfig, Shard
from ..errors import LlamaOnnxError, PoolTooSmallError
from ..memory import format_size
from ..pool import PoolStats, Reservation, Reservations
from ..session import SESSION_BYTES, Session
from .images import Images, Progress
from .loader import Entry, Loader, Place, SessionPlace
from .plan import Plan, arrangements, window_places
from .slots import SlotFolder, SlotPlace

log = logging.getLogger(__name__)


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
        """Make a plan, and the slots if some layers have to be streamed. Nothing is loaded yet.

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
        self._fixed_bytes = fixed_bytes
        self._progress = progress
        self.reservations = Reservations(self._reserve)
        self._working = 0
        self._loading = max(loading_bytes(shard) for shard in config.shards)  # extra, while a session is made
        folded = sum(shard.loaded_bytes + SESSION_BYTES for shard in config.shards)
        self._fold = folded + self._loading <= self.budget
        self._casting = max(shard.loaded_bytes - shard.mapped_bytes for shard in config.shards)
        if not self._fold:  # float16 weights are then cast while a shard runs, one shard at a time
            self._working = self._casting
        self._loader = Loader(config.shards, self.stats)
        self._use_slots = use_slots and all(shard.kind for shard in config.layers)  # until an attempt fails
        self._slots: SlotFolder | None = None
        self._slots_stay = False  # residents are in slots too
        self._slot_charges: dict[str, int] = {}  # by kind
        self._plan = Plan(frozenset(), ())
        self._prepared = False
        self._unused = {shard.name for shard in config.shards}  # until the first pass ends
        self._window: list[Entry] = []
        self._at_exit = weakref.finalize(self, self._loader.close)  # when the process ends, at the latest
        try:
            self._apply(self._make_plan(0))
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
        beside = self._loading + self._working + self.reservations.total
        layers = {shard.name: self._charge(shard) for shard in self._config.layers}
        others = sum(self._charge(shard) for shard in self._config.shards if shard.name not in layers)
        return others + max(layers.values()) + beside, others + sum(layers.values()) + beside

    def resize(self, budget: int) -> None:
        """Change the budget; see `promise.py`."""
        if budget != self.budget and not self._smallest:
            self._budget = budget
            self._plan_for(self.reservations.total, self.reservations.high_water)

    def wait(self) -> None:
        """Wait until the loader has nothing to read ahead."""
        self._loader.wait()

    def resident(self, shard: Shard) -> bool:
        """Return whether a shard is loaded and stays loaded."""
        return shard.name in self._plan.residents and any(h.session and h.shard is shard for h in self._loader.places())

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
        try:
            plan = self._make_plan(high_water)
        except PoolTooSmallError:
            plan = self._make_plan(total)
        self._apply(plan)

    def _charge(self, shard: Shard) -> int:
        """Return the bytes of a resident shard: in a slot if it is packed, else in its own session."""
        if self._stays_in_slot(shard):
            return self._slot_charge(shard)
        return (shard.loaded_bytes if self._fold else shard.mapped_bytes) + SESSION_BYTES

    def _stays_in_slot(self, shard: Shard) -> bool:
        return self._slots_stay and shard.quantized and shard.name in self._layers

    def _slot_charge(self, shard: Shard) -> int:
        assert self._slots
        if shard.kind not in self._slot_charges:
            self._slot_charges[shard.kind] = self._slots.images.get(shard).bytes + SESSION_BYTES
        return self._slot_charges[shard.kind]

    def _place_charge(self, shard: Shard) -> int:
        return self._slot_charge(shard) if self._slots else self._charge(shard)

    def _make_plan(self, reserved: int) -> Plan:
        """Keep as many layers as fit beside the reserved bytes and the places through which the others stream."""
        config, whole = self._config, self.budget - self._working
        budget = -1 if self._smallest else whole - reserved
        others = [shard for shard in config.shards if shard.name not in self._layers]
        everything = sum(map(self._charge, config.shards)) + self._loading
        if everything <= budget and not self._slots:
            return Plan(frozenset(shard.name for shard in config.shards), (), range(whole - everything + 1))
        least = sum(shard.mapped_bytes for shard in others) + max(shard.mapped_bytes for shard in config.layers)
        if self._use_slots and not self._slots and (self._smallest or least <= budget):  # an attempt evicts all layers
            self._slots = self._try_slots()
            self._use_slots = self._slots is not None
            if self._slots:  # which hold float16 weights as they are, even where everything else was converted
                self._working = self._casting
                whole = self.budget - self._working
                budget = -1 if self._smallest else whole - reserved
        kinds = {shard.kind: shard for shard in config.layers}
        beside = sum(map(self._charge, others))
        # A session takes extra memory while it is made. All slots are made before anything else is loaded.
        beside += max(map(self._slots.shared_bytes, kinds.values())) if self._slots else 0
        beside += 0 if self._slots_stay else self._loading
        making = 0  # slots are made before the reserved memory is in use
        if self._slots:
            making = max(map(self._slots.making_bytes, kinds.values())) - reserved
        charges = {shard.name: self._charge(shard) for shard in config.layers}
        places = {kind: self._place_charge(shard) for kind, shard in kinds.items()}
        larger = whole + 1  # bytes that the next larger plan needs; no plan is larger than the first one
        for arrangement in arrangements(config.layers, charges, places, making):
            needed = beside + arrangement.bytes
            if needed <= budget:
                break
            larger = needed
        if self._smallest:
            self._budget = needed + self._working
        elif needed > budget:
            enough = needed + self._fixed_bytes + self._working + reserved
            raise PoolTooSmallError(
                f"embedding, head and one layer at a time need {format_size(needed)}, but only "
                f"{format_size(max(budget, 0))} are left; give a poolsize of at least {format_size(enough)}"
            )
        names = frozenset(shard.name for shard in (*others, *arrangement.staying))
        return Plan(names, arrangement.places, range(whole - larger + 1, whole - needed + 1))

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
        self._prepared = True
        if not self._slots:
            return
        for held in self._loader.places():
            if held.resident and held.shard and held.shard.name not in self._layers:
                self._loader.load(held)
        most = self._plan if self._smallest else self._make_plan(0)
        places = dict(most.places)
        for kind in {shard.kind for shard in self._config.layers}:
            same = [shard for shard in self._config.layers if shard.kind == kind]
            staying = sum(self._stays_in_slot(shard) and shard.name in most.residents for shard in same)
            try:
                self._slots.prepare(same[0], staying + places.get(kind, 0))
            except OSError as error:  # another process has filled the memory file system since the slots were tried
                raise LlamaOnnxError(f"cannot make slots for the layers: {error}; free some memory there") from None

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
        shard = next(shard for shard in self._config.layers if shard.kind == kind)
        for _ in range(count):
            place: Place = SlotPlace(self._slots, shard) if self._slots else SessionPlace(self._fold)
            yield Entry(place, self._place_charge(shard), resident=False)

    def _try_slots(self) -> SlotFolder | None:
        """Return slots if they work on this machine, else None: then every load makes a session.

        Loaded layers are evicted first, because trying and making slots takes memory.
        """
        layers, slots = self._config.layers, None
        self._evict(self._plan.residents & self._layers)
        self._plan = Plan(self._plan.residents - self._layers, ())
        self._prepared = False
        try:
            slots = SlotFolder(Images(self._config))
            slots.images.make_all(layers, self._progress)
            for kind in {shard.kind for shard in layers}:
                same = [shard for shard in layers if shard.kind == kind]
                if len(same) > 1 and not slots.works(same[0], same[-1], self._config):
                    raise OSError("a session did not follow its file")
            kinds = {shard.kind: shard for shard in layers}
            places = window_places(layers, len(layers))
            if slots.free_bytes() < sum(count * slots.images.get(kinds[kind]).bytes for kind, count in places.items()):
                raise OSError("the memory file system is too small for the slots that are filled ahead")
        except (OSError, LlamaOnnxError, ImportError) as reason:
            log.info("streaming through a session per load, which is slower: %s", reason)
            if slots:
                slots.close()
            return None
        # Residents may take the whole budget, and the memory file system may be smaller than that.
        wanted = sum(slots.images.get(shard).bytes for shard in layers)
        self._slots_stay = slots.free_bytes() >= min(self.budget, wanted)
        return slots


def loading_bytes(shard: Shard) -> int:
    """Return the extra bytes a shard takes while it is being loaded: its file, unless its weights stay mapped."""
    mapped = shard.loaded_bytes <= shard.file_bytes and not shard.quantized and not shard.copied
    return 0 if mapped else shard.file_bytes
