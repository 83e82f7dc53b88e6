"""Slots: a session whose weights are mapped from a file in memory, so that overwriting the file loads another shard.

ONNX Runtime maps external weights read-only and computes straight from the mapping. When the file lies in a memory
file system, reading another shard's image into it turns the session into that shard's: no new session, no packing, the
load is one large read. This leans on how ONNX Runtime maps files on Linux, so `SlotFolder.works` tries it out first.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .config import ModelConfig, Shard
from .errors import LlamaOnnxError
from .images import PAGE, Image, Images, Region, round_up
from .session import Session

MEMORY = Path("/dev/shm")
PREFIX = "llama_onnx-"
LOCK = "lock"
FEW = 3  # tokens to try a slot with: of a single one, attention ignores queries and keys
PIECE = 8 << 20  # bytes of one read: large enough for the disk's full speed
PUNCH_HOLE_KEEP_SIZE = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


class SlotFolder:
    """The files of this process's slots, in a folder of the memory file system that goes with it.

    A process that was killed cannot remove its folder: the next one does.
    """

    def __init__(self, images: Images) -> None:
        """Make the folder.

        Raises:
            OSError: there is no memory file system.
        """
        if sys.platform != "linux":
            raise OSError("only Linux is known to map files as slots need it")
        self.images = images
        self.path, lock = _memory_folder()
        self._count = 0
        self.close = weakref.finalize(self, _remove, self.path, lock)  # at the end of the process at the latest

    def make(self, shard: Shard) -> Slot:
        """Make a slot for shards of this one's kind, holding nothing yet.

        Raises:
            OSError: the memory file system is too small.
            LlamaOnnxError: ONNX Runtime cannot load it.
        """
        image = self.images.get(shard)
        free = shutil.disk_usage(self.path).free
        size = image.data.stat().st_size
        if free < size + PIECE:
            raise OSError(f"{MEMORY} has {free} bytes free, a slot takes {size}")
        self._count += 1
        folder = self.path / str(self._count)
        folder.mkdir()
        return Slot(shard, image, folder, self._shared_files(shard))

    def works(self, one: Shard, other: Shard, config: ModelConfig) -> bool:
        """Try out whether overwriting a slot made for `one` with `other` computes what a plain session of it does."""
        slot = self.make(one)
        inputs = _few_tokens(config)
        slot.fill(self.images.get(one))
        before = _compute(slot.session, inputs, config)
        slot.fill(self.images.get(other))
        followed = _compute(slot.session, inputs, config)
        slot.close()
        expected = _compute(Session(other, fold=False), inputs, config)
        return np.array_equal(followed, expected) and not np.array_equal(followed, before)

    def _shared_files(self, shard: Shard) -> list[Path]:
        """Copy the data files that float shards share (rope tables), once for all slots."""
        if shard.quantized:
            return []
        copies = []
        for name in shard.data_files:
            if name != shard.path.with_suffix(".bin").name:
                copy = self.path / name
                if not copy.exists():
                    shutil.copyfile(shard.path.with_name(name), copy)
                copies.append(copy)
        return copies


class Slot:
    """A session and the file its weights are mapped from."""

    def __init__(self, shard: Shard, image: Image, folder: Path, shared: Sequence[Path]) -> None:
        self.kind = shard.kind
        self._folder = folder
        self._layout = image.regions
        graph = Path(shutil.copyfile(image.graph, folder / image.graph.name))
        for path in shared:
            os.link(path, folder / path.name)
        size = round_up(image.data.stat().st_size)
        descriptor = os.open(folder / image.data.name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.truncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
            # ONNX Runtime packs the originals again and takes the packed ones from the file if they are the same.
            _read_regions(image.data, [Region(0, size)], self._memory)
            self.session = Session(shard, graph, fold=False)
            self._punch_out(descriptor, [*image.regions, *image.constant], size)
        finally:
            os.close(descriptor)

    def fill(self, image: Image) -> Session:
        """Read the image of another shard of this kind into the slot and return its session, which is now that shard's.

        Raises:
            LlamaOnnxError: the image cannot be read, or is laid out in another way.
        """
        if image.regions != self._layout:
            raise LlamaOnnxError(f"{image.path}: laid out in another way than the slot; remove it, it is made anew")
        _read_regions(image.path, image.regions, self._memory)
        return self.session

    def close(self) -> None:
        """Remove the slot's files; their memory is free when the session goes."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _punch_out(self, descriptor: int, kept: Sequence[Region], size: int) -> None:
        """Give back the memory of what is not computed from: matrices before they were packed."""
        libc = ctypes.CDLL(None, use_errno=True)
        place = 0
        for region in [*sorted(kept, key=lambda region: region.offset), Region(size, 0)]:
            if region.offset > place:
                libc.fallocate(
                    descriptor, PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(place), ctypes.c_long(region.offset - place)
                )
            place = max(place, region.offset + region.length)


class SlotPlace:
    """A slot as a place that the loader fills; the slot is made when the first shard comes."""

    def __init__(self, folder: SlotFolder, shard: Shard) -> None:
        self.kind: str | None = shard.kind
        self._folder = folder
        self._slot: Slot | None = None

    def fill(self, shard: Shard) -> Session:
        """Read the shard's image into the slot."""
        if self._slot is None:
            self._slot = self._folder.make(shard)
        return self._slot.fill(self._folder.images.get(shard))

    def clear(self) -> None:
        """Let go of the slot and its memory."""
        if self._slot:
            self._slot.close()
        self._slot = None


def _few_tokens(config: ModelConfig) -> dict[str, np.ndarray]:
    """Return inputs of a decoder shard for a few tokens at the start of a sequence."""
    cache = (1, config.num_kv_heads, 16, config.head_dim)
    inputs = {
        "hidden": np.random.default_rng(0).standard_normal((1, FEW, config.hidden_size), dtype=np.float32),
        "past_key": np.zeros(cache, np.float32),
        "past_value": np.zeros(cache, np.float32),
        "seqlens_k": np.full(1, FEW - 1, np.int32),
        "total_sequence_length": np.full(1, FEW, np.int32),
    }
    return inputs if config.rope_switch_length is None else {**inputs, "rope_rows": np.arange(FEW)[None]}


def _compute(session: Session, inputs: dict[str, np.ndarray], config: ModelConfig) -> np.ndarray:
    cache = {"present_key": inputs["past_key"], "present_value": inputs["past_value"]}
    hidden_out = np.empty((1, FEW, config.hidden_size), np.float32)
    session.run(inputs, {"hidden_out": hidden_out, **cache})
    return hidden_out


def _read_regions(path: Path, regions: Sequence[Region], memory: mmap.mmap) -> None:
    """Read a file's bytes one after another into regions of memory, past the page cache where the system can."""
    with _Opened(path) as descriptor:
        place = 0
        for region in regions:
            for start in range(0, region.length, PIECE):
                size = min(PIECE, region.length - start)
                _read(descriptor, memory, region.offset + start, size, place + start, path)
                # The session has a mapping of its own: pages of this one would be counted as ours a second time.
                memory.madvise(mmap.MADV_DONTNEED, region.offset + start, size)
            place += region.length


def _read(descriptor: int, memory: mmap.mmap, offset: int, size: int, place: int, path: Path) -> None:
    view = memoryview(memory)[offset : offset + size]
    try:
        while len(view):
            count = os.preadv(descriptor, [view], place)
            if count == 0:
                break
            view, place = view[count:], place + count
            if count % PAGE:  # the end of a file that is no whole page
                break
        end = os.fstat(descriptor).st_size
        if len(view) and place < end:
            raise LlamaOnnxError(f"{path}: ended {len(view)} bytes early; it was changed while it was read")
        if len(view) and round_up(end) < place + len(view):
            raise LlamaOnnxError(f"{path}: truncated; copy or export the model again")
    except OSError as error:
        raise LlamaOnnxError(f"{path}: cannot be read ({error.strerror})") from None
    finally:
        view.release()


class _Opened:
    """A file descriptor for direct reads; for ordinary ones where the file system has none."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = _open(path)
        except OSError as error:
            raise LlamaOnnxError(f"{path}: cannot be read ({error.strerror})") from None

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(self._descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return os.open(path, os.O_RDONLY)


def _memory_folder() -> tuple[Path, int]:
    """Make a folder of this process in the memory file system and return it with the descriptor of its lock.

    A process that was killed leaves its folder behind; whoever comes next removes those that nobody holds a lock on.

    Raises:
        OSError: there is no memory file system, or it cannot be written.
    """
    import fcntl

    for folder in MEMORY.glob(f"{PREFIX}*"):
        _remove_if_orphaned(folder)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY))
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _remove(folder: Path, lock: int) -> None:
    """Remove a folder; sessions that still map its files stay valid."""
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _remove_if_orphaned(folder: Path) -> None:
    import fcntl

    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except OSError:  # just being made, or being removed, or somebody else's
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # its process lives
        pass
    finally:
        os.close(lock)
