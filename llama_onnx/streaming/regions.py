"""Regions: the parts of a data file that a loaded shard computes from, in whole pages."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files.onnx_file import Initializer

PAGE = 4096
MATRIX, SCALES = ".qweight", ".scales"  # suffixes of the initializers of a quantised matrix


@dataclass(frozen=True)
class Region:
    """Part of a slot's file that differs between shards. Both numbers are multiples of the page size."""

    offset: int
    length: int


def round_up(size: int) -> int:
    """Return the size in bytes, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def forget_pages(descriptor: int) -> None:
    """Drop a file's pages from the page cache, so that they do not count as used memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def regions_of(tensors: Sequence[Initializer], unread: Container[str]) -> list[Region]:
    """Return the regions of a packed data file that hold tensors, except the tensors named in `unread`."""
    spans = [
        span
        for tensor in tensors
        if tensor.name not in unread and tensor.location[0]
        for span in _packed_spans(tensor) or [tensor.location[1:]]
    ]
    return _merged([_whole_pages(offset, length) for offset, length in spans if length])


def scales_of(tensors: Sequence[Initializer]) -> list[Initializer]:
    """Return the scales of the matrices that were packed."""
    packed = {tensor.name.removesuffix(MATRIX) for tensor in tensors if _packed_spans(tensor)}
    return [tensor for tensor in tensors if tensor.name.endswith(SCALES) and tensor.name.removesuffix(SCALES) in packed]


def copy_regions(source: Path, regions: Sequence[Region], target: Path) -> None:
    """Write the regions of a file one after another into another file, and replace that file atomically."""
    temporary = target.with_name(target.name + ".tmp")
    with source.open("rb") as read, temporary.open("wb") as write:
        for region in regions:
            read.seek(region.offset)
            write.write(read.read(region.length).ljust(region.length, b"\0"))
        write.flush()
        os.fsync(write.fileno())
        forget_pages(write.fileno())
    temporary.replace(target)


def _packed_spans(tensor: Initializer) -> list[tuple[int, int]]:
    """Return (offset, length) of the buffers that a matrix was packed into; its original bytes are not read any more.

    The file says `prepacked_0 = key|offset;length;…`.
    """
    entries = [entry for name, entry in tensor.external_data.items() if name.startswith("prepacked")]
    parts = [part.split(";") for entry in entries for part in entry.split("|")[1:]]
    return [(int(part[0]), int(part[1])) for part in parts]


def _whole_pages(offset: int, length: int) -> Region:
    """Return the region around a tensor.

    A small tensor may start anywhere in a page. The rest of the page is copied too: it belongs to the same shard.
    """
    start = offset // PAGE * PAGE
    return Region(start, round_up(offset + length) - start)


def _merged(regions: list[Region]) -> list[Region]:
    """Return the regions in order, with those that touch or overlap joined."""
    merged: list[Region] = []
    for region in sorted(regions, key=lambda region: region.offset):
        last = merged[-1] if merged else None
        if last and region.offset <= last.offset + last.length:
            merged[-1] = Region(last.offset, max(last.length, region.offset + region.length - last.offset))
        else:
            merged.append(region)
    return merged
