"""Regions: the parts of a data file that a loaded shard computes from, in whole pages, and reading them."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import LlamaOnnxError

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


def regions_around(spans: Iterable[tuple[int, int]]) -> list[Region]:
    """Return regions that hold these spans (offset, length) of a file, in order; small ones may share a page."""
    merged: list[Region] = []
    for offset, length in sorted(span for span in spans if span[1]):
        start, end = offset // PAGE * PAGE, round_up(offset + length)
        last = merged[-1] if merged else None
        if last and start <= last.offset + last.length:
            merged[-1] = Region(last.offset, max(last.length, end - last.offset))
        else:
            merged.append(Region(start, end - start))
    return merged


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
