"""Regions: the parts of a data file that a loaded shard computes from, in whole pages; copying and reading them."""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ..errors import LlamaOnnxError
from ..files.onnx_file import Graph, Initializer

PAGE = 4096
PIECE = 8 << 20  # bytes per read, large enough for the full speed of the disk
READERS = 2  # concurrent reads


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


def spans_of(graph: Graph, unread: Container[str] = ()) -> dict[str, list[tuple[int, int]]]:
    """Return (offset, length) in the data file of what is read of each tensor, except the tensors named in `unread`.

    The names are those of a layer without its number, so that layers of one kind have the same ones.
    """
    return {
        re.sub(r"(?<=\blayers\.)\d+", "", tensor.name): _packed_spans(tensor) or [tensor.location[1:]]
        for tensor in graph.initializers
        if tensor.name not in unread and tensor.location[0]
    }


def regions_of(spans: Iterable[Sequence[tuple[int, int]]]) -> list[Region]:
    """Return the regions of a data file that hold these spans of tensors."""
    return _merged([_whole_pages(offset, length) for parts in spans for offset, length in parts if length])


def scales_of(graph: Graph) -> list[Initializer]:
    """Return the scales of the matrices that were packed."""
    tensors = {tensor.name: tensor for tensor in graph.initializers}
    packed = {tensor.name for tensor in graph.initializers if _packed_spans(tensor)}
    names = {node.inputs[2] for node in graph.nodes if node.op_type == "MatMulNBits" and node.inputs[1] in packed}
    return [tensors[name] for name in sorted(names & tensors.keys())]


def copy_spans(
    source: Path,
    spans: Sequence[tuple[int, int]],
    places: Sequence[tuple[int, int]],
    regions: Sequence[Region],
    target: Path,
) -> None:
    """Write an image, and replace the file atomically: the bytes of regions, one region after another.

    Args:
        source: the data file of a packed shard.
        spans: (offset, length) of what is copied from it.
        places: (offset, length) of the same in the file that the regions are parts of.
        regions: those that hold all places.
        target: the image.
    """
    starts = dict(zip(regions, accumulate((region.length for region in regions), initial=0), strict=False))
    temporary = target.with_name(target.name + ".tmp")
    with source.open("rb") as read, temporary.open("wb") as write:
        for (offset, length), (place, _) in zip(spans, places, strict=True):
            if not length:
                continue
            region = next(r for r in regions if r.offset <= place < r.offset + r.length)
            read.seek(offset)
            write.seek(starts[region] + place - region.offset)
            write.write(read.read(length))
        write.truncate(sum(region.length for region in regions))
        write.flush()
        os.fsync(write.fileno())
        forget_pages(write.fileno())
    temporary.replace(target)


def read_regions(path: Path, regions: Sequence[Region], memory: mmap.mmap) -> None:
    """Read a file sequentially into regions of memory, bypassing the page cache where the system supports that.

    Raises:
        OSError: EFAULT: there is no memory for the pages to read into.
        LlamaOnnxError: the file cannot be read.
    """
    pieces, place = [], 0
    for region in regions:
        pieces += [
            (region.offset + start, min(PIECE, region.length - start), place + start)
            for start in range(0, region.length, PIECE)
        ]
        place += region.length
    with _Opened(path) as descriptor:

        def read(piece: tuple[int, int, int]) -> None:
            offset, size, place = piece
            _read(descriptor, memory, offset, size, place, path)
            # The session has its own mapping. If this one kept its pages, they would count as used memory twice.
            memory.madvise(mmap.MADV_DONTNEED, offset, size)

        if sum(size for _, size, _ in pieces) <= PIECE:
            for piece in pieces:
                read(piece)
            return
        with ThreadPoolExecutor(READERS) as readers:  # with one request at a time, the disk idles between two
            for _ in readers.map(read, pieces):
                pass


def _read(descriptor: int, memory: mmap.mmap, offset: int, size: int, place: int, path: Path) -> None:
    view = memoryview(memory)[offset : offset + size]
    try:
        while len(view):
            count = os.preadv(descriptor, [view], place)
            if count == 0:
                break
            view, place = view[count:], place + count
            if count % PAGE:  # the end of a file whose size is not a multiple of the page size
                break
        end = os.fstat(descriptor).st_size
        if len(view) and place < end:
            raise LlamaOnnxError(f"{path}: the read ended {len(view)} bytes early; the file was changed meanwhile")
        if len(view) and round_up(end) < place + len(view):
            raise LlamaOnnxError(f"{path}: truncated; copy or export the model again")
    except OSError as error:
        if error.errno == errno.EFAULT:
            raise
        raise LlamaOnnxError(f"{path}: cannot be read ({error.strerror})") from None
    finally:
        view.release()


class _Opened:
    """A file descriptor for direct reads, or for ordinary reads where the file system does not support direct ones."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = _open(path)
        except OSError as error:
            raise LlamaOnnxError(f"{path}: cannot be read ({error.strerror})") from None

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        forget_pages(self._descriptor)
        os.close(self._descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return os.open(path, os.O_RDONLY)


def _packed_spans(tensor: Initializer) -> list[tuple[int, int]]:
    """Return (offset, length) of the buffers that a matrix was packed into; its original bytes are not read any more.

    The file says `prepacked_0 = key|offset;length;…`.
    """
    entries = [entry for name, entry in tensor.external_data.items() if name.startswith("prepacked")]
    parts = [part.split(";") for entry in entries for part in entry.split("|")[1:]]
    return [(int(part[0]), int(part[1])) for part in parts]


def _whole_pages(offset: int, length: int) -> Region:
    """Return the region around a tensor. A small tensor may start anywhere in a page."""
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
