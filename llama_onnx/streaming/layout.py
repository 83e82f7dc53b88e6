"""Where the bytes of a packed shard lie, and how its image is written: alike for all shards of a kind.

ONNX Runtime saves the constants that it folds in no fixed order. So each packed shard has its tensors in places of its
own, and they are copied one by one to where a slot of their kind maps them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path

from ..files.onnx_file import Graph, Initializer
from .regions import Region, forget_pages, regions_around

Spans = dict[str, list[tuple[int, int]]]  # (offset, length) in a data file of what is read of each tensor, by its name


@dataclass(frozen=True)
class Layout:
    """The layout that all images of one kind of shard have: the places of the tensors in the data file of a slot."""

    spans: Spans

    @classmethod
    def read(cls, path: Path) -> Layout | None:
        """Return the layout that a note has; None if there is no valid note."""
        try:
            read = json.loads(path.read_bytes())["spans"]
            return cls({str(name): [(int(a), int(b)) for a, b in parts] for name, parts in read.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def note(self) -> bytes:
        """Return the note that `read` reads."""
        return json.dumps({"spans": self.spans}).encode()

    @cached_property
    def digest(self) -> str:
        """What the images of this layout are marked with."""
        return hashlib.sha256(self.note()).hexdigest()

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The parts of a slot's file that an image fills."""
        return tuple(regions_around(chain(*self.spans.values())))

    def write_image(self, source: Path, spans: Spans, target: Path) -> None:
        """Write an image, one region after another, and replace the file atomically.

        Args:
            source: the data file of a packed shard.
            spans: where its tensors are in that file.
            target: the image.

        Raises:
            ValueError: it has other tensors than this layout.
        """
        copied = [span for name in self.spans for span in spans.get(name, ())]
        places = list(chain(*self.spans.values()))
        if [length for _, length in copied] != [length for _, length in places]:
            raise ValueError("other tensors")
        starts = dict(zip(self.regions, accumulate((r.length for r in self.regions), initial=0), strict=False))
        temporary = target.with_name(target.name + ".tmp")
        with source.open("rb") as read, temporary.open("wb") as write:
            for (offset, length), (place, _) in zip(copied, places, strict=True):
                if not length:
                    continue
                region = next(r for r in self.regions if r.offset <= place < r.offset + r.length)
                read.seek(offset)
                write.seek(starts[region] + place - region.offset)
                write.write(read.read(length))
            write.truncate(sum(region.length for region in self.regions))
            write.flush()
            os.fsync(write.fileno())
            forget_pages(write.fileno())
        temporary.replace(target)


def spans_of(graph: Graph, unread: Container[str] = ()) -> Spans:
    """Return (offset, length) in the data file of what is read of each tensor, except the tensors named in `unread`.

    The names are those of a layer without its number, so that layers of one kind have the same ones.
    """
    return {
        re.sub(r"(?<=\blayers\.)\d+", "", tensor.name): _packed_spans(tensor) or [tensor.location[1:]]
        for tensor in graph.initializers
        if tensor.name not in unread and tensor.location[0]
    }


def scales_of(graph: Graph) -> list[Initializer]:
    """Return the scales of the matrices that were packed."""
    tensors = {tensor.name: tensor for tensor in graph.initializers}
    packed = {tensor.name for tensor in graph.initializers if _packed_spans(tensor)}
    names = {node.inputs[2] for node in graph.nodes if node.op_type == "MatMulNBits" and node.inputs[1] in packed}
    return [tensors[name] for name in sorted(names & tensors.keys())]


def _packed_spans(tensor: Initializer) -> list[tuple[int, int]]:
    """Return (offset, length) of the buffers that a matrix was packed into; its original bytes are not read any more.

    The file says `prepacked_0 = key|offset;length;…`.
    """
    entries = [entry for name, entry in tensor.external_data.items() if name.startswith("prepacked")]
    parts = [part.split(";") for entry in entries for part in entry.split("|")[1:]]
    return [(int(part[0]), int(part[1])) for part in parts]
