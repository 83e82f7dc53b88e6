"""Slots: sessions whose weights are mapped from a file in memory, so that overwriting the file loads another shard.

ONNX Runtime maps external weights read-only and computes directly from the mapping. If the file is in a memory file
system, reading the image of another shard into it makes the session compute that shard. A load is then one large read,
with no new session and no packing. This depends on how ONNX Runtime maps files on Linux, so `SlotFolder.works` tests it
first.
"""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ModelConfig, Shard
from ..errors import LlamaOnnxError
from ..files.file_lock import lock
from ..session import Session
from . import self_check
from .images import Image, Images, Progress
from .plan import window_places
from .regions import PIECE, forget_pages, read_regions, round_up
from .tables import make_empty, mapped_tables, table_bytes

MEMORY = Path("/dev/shm")
PREFIX = "llama_onnx-"
LOCK = "lock"


class SlotFolder:
    """The files of this process's slots, in a folder of the memory file system.

    The folder is removed when the process ends. A process that is killed cannot do that; the next one does.
    """

    def __init__(self, images: Images) -> None:
        """Make the folder.

        Raises:
            OSError: there is no memory file system.
        """
        if sys.platform != "linux":
            raise OSError("slots work only on Linux")
        self.images = images
        self.path, descriptor = _memory_folder()
        self._count = 0
        self._spare: list[Slot] = []
        self._tables: dict[str, dict[str, Any]] = {}  # by kind
        # Also runs when the process exits, and when a forked child does.
        self.close = weakref.finalize(self, _remove, self.path, descriptor, os.getpid())

    def prepare(self, shard: Shard, count: int) -> None:
        """Make slots of a shard's kind until `count` of them are free.

        Making a slot takes more memory than filling it, so all are made before the memory is needed.

        Raises:
            OSError: the memory file system is too small.
            LlamaOnnxError: ONNX Runtime cannot load the shard.
        """
        missing = count - sum(slot.kind == shard.kind for slot in self._spare)
        for _ in range(missing):
            self._spare.append(self._make(shard))
        if missing > 0:
            with self.images.get(shard).data.open("rb") as file:
                forget_pages(file.fileno())

    def take(self, shard: Shard) -> Slot:
        """Return an empty slot for shards of this kind; make one if none is free.

        Raises:
            OSError: the memory file system is too small.
            LlamaOnnxError: ONNX Runtime cannot load the shard.
        """
        self.prepare(shard, 1)
        return self._spare.pop(next(i for i, slot in enumerate(self._spare) if slot.kind == shard.kind))

    def give_back(self, slot: Slot) -> None:
        """Empty a slot and keep it for later use."""
        slot.empty()
        self._spare.append(slot)

    def shared_bytes(self, shard: Shard) -> int:
        """Return the bytes of the files that all slots of this kind share."""
        return table_bytes(self.images.get(shard).shared)

    def free_bytes(self) -> int:
        """Return the free bytes of the memory file system."""
        return shutil.disk_usage(self.path).free

    def making_bytes(self, shard: Shard) -> int:
        """Return the bytes that making one slot takes: the matrices in their original form and packed."""
        return round_up(self.images.get(shard).data.stat().st_size)

    def _make(self, shard: Shard) -> Slot:
        image = self.images.get(shard)
        free = self.free_bytes()
        size = image.data.stat().st_size
        if free < size + PIECE:
            raise OSError(f"{MEMORY} has {free} bytes free, but a slot takes {size}")
        self._count += 1
        folder = self.path / str(self._count)
        folder.mkdir()
        try:
            if shard.kind not in self._tables:
                self._tables[shard.kind] = mapped_tables(shard)
            shared = [self._placeholder(path) for path in image.shared]
            return Slot(shard, image, folder, shared, self._tables[shard.kind])
        except BaseException:
            shutil.rmtree(folder)
            raise

    def works(self, one: Shard, other: Shard, config: ModelConfig) -> bool:
        """Test whether a slot made for shard `one` and overwritten with `other` computes what a plain session does."""
        expected = self_check.compute(Session(other, fold=False), config)
        slot = self.take(one)
        before = self_check.compute(slot.fill(self.images.get(one)), config)
        followed = self_check.compute(slot.fill(self.images.get(other)), config)
        self.give_back(slot)
        return np.array_equal(followed, expected) and not np.array_equal(followed, before)

    def _placeholder(self, path: Path) -> Path:
        """Return an empty file in place of one that all slots read (rope tables); make it if needed."""
        empty = self.path / path.name
        if not empty.exists():
            make_empty(empty, path)
        return empty


def open_slots(config: ModelConfig, progress: Progress) -> SlotFolder:
    """Return a folder for the slots of a model, after testing that they work for it on this machine.

    Raises:
        OSError: they do not work, or the memory file system is too small.
        LlamaOnnxError: a layer cannot be packed or loaded.
    """
    slots, layers = SlotFolder(Images(config)), config.layers
    try:
        slots.images.make_all(layers, progress)
        kinds = {shard.kind: shard for shard in layers}
        for kind in kinds:
            same = [shard for shard in layers if shard.kind == kind]
            if len(same) > 1 and not slots.works(same[0], same[-1], config):
                raise OSError("a session did not follow its file")
        places = window_places(layers, len(layers))
        if slots.free_bytes() < sum(count * slots.images.get(kinds[kind]).bytes for kind, count in places.items()):
            raise OSError("the memory file system is too small for the slots that are filled ahead")
    except BaseException:
        slots.close()
        raise
    return slots


class Slot:
    """A session, and the file its weights are mapped from."""

    def __init__(
        self, shard: Shard, image: Image, folder: Path, shared: Sequence[Path], tables: Mapping[str, Any]
    ) -> None:
        self.kind = shard.kind
        self._layout = image.layout, image.regions
        self._owner = os.getpid()  # a forked child shares the file and must not change it
        graph = Path(shutil.copyfile(image.graph, folder / image.graph.name))
        for path in shared:
            os.link(path, folder / path.name)
        # ONNX Runtime packs the original matrices again, and uses those packed in the file if they are the same.
        data = Path(shutil.copyfile(image.data, folder / image.data.name))
        with data.open("r+b") as file:
            size = round_up(data.stat().st_size)
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
        self.session = Session(shard, graph, fold=False, given=tables)
        self.empty()

    def fill(self, image: Image) -> Session:
        """Read the image of a shard of this kind into the slot, and return the session, which now computes that shard.

        Raises:
            LlamaOnnxError: the image cannot be read, or has another layout; or this process is a forked child.
        """
        if os.getpid() != self._owner:
            raise LlamaOnnxError("a forked process cannot use the layers of its parent; load the model after the fork")
        if (image.layout, image.regions) != self._layout:
            raise LlamaOnnxError(f"{image.path}: its layout does not match the slot; remove the file, it is made again")
        try:
            read_regions(image.path, image.regions, self._memory)
        except OSError:
            raise LlamaOnnxError(f"{MEMORY} is full: {image.path} does not fit; free some space there") from None
        return self.session

    def empty(self) -> None:
        """Free all memory, including the pages that only making the session reads. Does nothing in a forked child."""
        if os.getpid() == self._owner:
            self._memory.madvise(mmap.MADV_REMOVE)


class SlotPlace:
    """A slot as a place for the loader. It takes a slot from the folder when the first shard is loaded."""

    def __init__(self, folder: SlotFolder, shard: Shard) -> None:
        self.kind: str | None = shard.kind
        self._folder = folder
        self._slot: Slot | None = None

    def fill(self, shard: Shard) -> Session:
        """Read the shard's image into the slot."""
        if self._slot is None:
            self._slot = self._folder.take(shard)
        return self._slot.fill(self._folder.images.get(shard))

    def clear(self) -> None:
        """Return the slot to the folder, which frees its memory."""
        if self._slot:
            self._folder.give_back(self._slot)
        self._slot = None


def _memory_folder() -> tuple[Path, int]:
    """Make a folder for this process in the memory file system, and return it with the descriptor of its lock.

    Also remove the folders of processes that were killed: those that nobody holds a lock on.

    Raises:
        OSError: there is no memory file system, or it is not writable.
    """
    for folder in MEMORY.glob(f"{PREFIX}*"):
        _remove_if_orphaned(folder)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY))
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    lock(descriptor, wait=True)
    return folder, descriptor


def _remove(folder: Path, descriptor: int, owner: int) -> None:
    """Remove a folder and release its lock. Sessions that still map its files stay valid.

    Does nothing in a forked child: the folder belongs to the process `owner`, which made it.
    """
    if os.getpid() != owner:
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)


def _remove_if_orphaned(folder: Path) -> None:
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:  # the folder is being made or removed, or belongs to another user
        return
    try:
        if lock(descriptor):  # otherwise its process is still running
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
