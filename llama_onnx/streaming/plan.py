"""Plans: which layers stay in memory, and through how many places the others stream.

The layers that stay are spread evenly, so that there is something to compute while other layers are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..config import Shard

FEW = 4  # if at most a quarter of the layers stream, they share one place, so that one more layer can stay


@dataclass(frozen=True)
class Plan:
    """Which shards stay, and the number of places for each kind of the layers that stream.

    Attributes:
        residents: the names of the shards that stay.
        places: pairs of a kind and a number.
        bytes: what all of it takes.
        holds: the reserved bytes for which no other plan is better.
    """

    residents: frozenset[str]
    places: tuple[tuple[str, int], ...]
    bytes: int = 0
    holds: range = range(0)


@dataclass(frozen=True)
class Costs:
    """What shards take, in bytes.

    Attributes:
        stay: each layer that stays, by name.
        place: a place, by the kind of layer that streams through it.
        beside: embedding, head, and what loading and running takes for a while.
        making: making the places, before anything is reserved.
        most: the largest plan, in which all layers stay.
    """

    stay: Mapping[str, int]
    place: Mapping[str, int]
    beside: int
    making: int
    most: int

    def least(self, reserved: int = 0) -> int:
        """Return the bytes of the smallest plan, in which no layer stays."""
        return max(self.beside + sum(self.place.values()) + reserved, self.making)


def best_plan(
    others: Sequence[Shard], layers: Sequence[Shard], costs: Costs, room: int | None, reserved: int
) -> Plan | None:
    """Return the plan in which the most layers stay; None if not even the smallest plan fits.

    Args:
        others: the shards that always stay.
        layers: the others, in the order of the model.
        costs: what they take.
        room: for the shards and the reserved bytes together; None asks for the smallest plan.
        reserved: bytes.
    """
    names = {shard.name for shard in others}
    smallest = tuple((kind, 1) for kind in sorted(costs.place))
    if room is None:
        return Plan(frozenset(names), smallest, costs.least())
    if costs.making > room:
        return None
    larger = room + 1  # what the next larger plan takes; no plan is larger than the first one
    for staying, places in [*_arrangements(layers), ((), smallest)]:
        size = costs.beside + sum(costs.stay[shard.name] for shard in staying)
        size += sum(count * costs.place[kind] for kind, count in places)
        if size + reserved <= room:
            names.update(shard.name for shard in staying)
            return Plan(frozenset(names), places, size, range(room - larger + 1, room - size + 1))
        larger = size
    return None


def _arrangements(layers: Sequence[Shard]) -> Iterator[tuple[tuple[Shard, ...], tuple[tuple[str, int], ...]]]:
    """Yield the layers that stay and the places for the others: from all that stay to none."""
    staying, leaving = list(layers), list[Shard]()
    for shard in [None, *leaving_order(layers)]:
        if shard is not None:
            staying.remove(shard)
            leaving.append(shard)
        yield tuple(staying), tuple(sorted(window_places(leaving, len(layers)).items()))


def leaving_order(layers: Sequence[Shard]) -> list[Shard]:
    """Return the layers in the order in which they stop being resident: the most common kind first, spread evenly.

    They follow the van der Corput sequence, of which any first n elements are spread evenly. So the layers that are
    resident under a small budget are also resident under a larger one.
    """
    count = Counter(shard.kind for shard in layers)

    def bits_reversed(i: int) -> float:
        value, scale = 0.0, 0.5
        while i:
            value, i, scale = value + scale * (i & 1), i >> 1, scale / 2
        return value

    return sorted(layers, key=lambda s: (-count[s.kind], s.kind, bits_reversed(layers.index(s))))


def window_places(leaving: Sequence[Shard], layers: int) -> dict[str, int]:
    """Return the number of places for each kind of streaming layer; of two, one is filled while the other is used."""
    kinds = {shard.kind for shard in leaving}
    single = len(kinds) > 1 or len(leaving) <= max(2, layers // FEW)
    return dict.fromkeys(kinds, 1 if single else min(2, len(leaving)))
