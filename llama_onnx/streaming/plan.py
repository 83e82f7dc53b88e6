"""Plans: which layers stay in memory, and through how many places the others stream.

The layers that stay are spread evenly, so that there is something to compute while other layers are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..config import Shard

FEW = 4  # if at most a quarter of the layers stream, they share one place, so that one more layer can stay


@dataclass(frozen=True)
class Plan:
    """Which shards stay and which stream: the names of the residents, and the number of places for each kind of layer.

    It is the best plan as long as the reserved bytes are in the range `holds`.
    """

    residents: frozenset[str]
    places: tuple[tuple[str, int], ...]
    holds: range = range(0)


class Arrangement(NamedTuple):
    """The layers that stay, the number of places for each kind of the others, and the bytes of both."""

    staying: tuple[Shard, ...]
    places: tuple[tuple[str, int], ...]
    bytes: int


def arrangements(
    layers: Sequence[Shard], charges: Mapping[str, int], places: Mapping[str, int], making: int = 0
) -> Iterator[Arrangement]:
    """Yield arrangements with fewer and fewer layers that stay, from all of them to none.

    In the last one, all layers of a kind stream through one place.

    Args:
        layers: all of them, in the order of the model.
        charges: the bytes of each layer that stays, by name.
        places: the bytes of a place, by kind of layer.
        making: bytes that making the places takes, and that the last arrangement needs at least.
    """
    staying, leaving = list(layers), list[Shard]()
    for shard in [None, *leaving_order(layers)]:
        if shard is not None:
            staying.remove(shard)
            leaving.append(shard)
        window = window_places(leaving, len(layers))
        needed = sum(charges[one.name] for one in staying) + sum(count * places[kind] for kind, count in window.items())
        yield Arrangement(tuple(staying), tuple(sorted(window.items())), needed)
    smallest = tuple((kind, 1) for kind in sorted(places))
    yield Arrangement((), smallest, max(sum(places.values()), making))


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
