"""Images: the bytes a loaded shard computes from, laid out as a slot takes them.

The image of a float shard is its own data file. A quantised shard computes from matrices that ONNX Runtime packs for
the CPU; packing takes longer than reading, so the packed bytes are written once per machine. They depend on the version
of ONNX Runtime and on the CPU, so an image carries a key and is made again when the key is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ModelConfig, Shard
from ..errors import LlamaOnnxError, ModelDirectoryError
from ..files.file_lock import lock
from ..files.onnx_file import Initializer, read_graph, relocate
from ..session import Session, pack
from . import self_check

PAGE = 4096
FOLDER = ".packed"
NOTE = "note.json"
LOCK = "lock"
MATRIX, SCALES = ".qweight", ".scales"  # how the initializers of a quantised matrix are named
PACKING = "packing layers for this machine, once"
Progress = Callable[[str, int, int], object]  # told what is done, how much of it, of how much
TRIED = (1, 3, 40)  # tokens at a time: one and many take other kernels
VERSION = 2  # of the layout of an image and its note


@dataclass(frozen=True)
class Region:
    """A stretch of a slot's file that differs from shard to shard. Both are multiples of a page."""

    offset: int
    length: int


@dataclass(frozen=True)
class Image:
    """Where the bytes of a shard are, and where they go: `path` holds the regions one after another.

    `graph` is the ONNX file to make a slot's session from, and `data` the file it reads; they are those of one shard of
    the kind. `shared` are files that the graph reads as well, whatever the shard: rope tables.
    """

    path: Path
    graph: Path
    data: Path
    regions: tuple[Region, ...]
    shared: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """What one load reads."""
        return sum(region.length for region in self.regions)


class Images:
    """The images of a model's shards, kept beside the model or, where that is not possible, in the user's cache."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._key = _machine_key()

    @cached_property
    def folder(self) -> Path:
        """Where packed images are kept; made when the first quantised shard asks for it."""
        return _writable_folder(self._config, self._key)

    def get(self, shard: Shard) -> Image:
        """Return the image of a shard, packing it first if there is none that is up to date.

        Raises:
            LlamaOnnxError: there is no room for it, or the shard cannot be read or packed.
        """
        if not shard.quantized:
            data = shard.path.with_suffix(".bin")
            try:
                size = round_up(data.stat().st_size)
            except OSError as error:
                raise ModelDirectoryError(f"{data}: cannot be read ({error.strerror}); copy the model again") from None
            return Image(data, shard.path, data, (Region(0, size),), self._shared(shard))
        return self._read(shard) or self._make(shard)

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards whose image must still be made."""
        return [shard for shard in shards if shard.quantized and not self._read(shard)]

    def make_all(self, shards: Sequence[Shard], progress: Progress = lambda doing, done, total: None) -> None:
        """Make what is missing; an interrupted run goes on where it was."""
        missing = self.missing(shards)
        for scratch in self.folder.glob("scratch-*") if missing else ():  # of a run that was killed
            if not Path("/proc", scratch.name.split("-")[1]).exists():
                shutil.rmtree(scratch, ignore_errors=True)
        for done, shard in enumerate(missing):
            progress(PACKING, done, len(missing))
            self._make(shard)
        if missing:
            progress(PACKING, len(missing), len(missing))

    def _read(self, shard: Shard) -> Image | None:
        """Return the image if it is whole and of this shard, runtime and CPU."""
        path = self.folder / f"{shard.name}.image"
        try:
            note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if note["key"] != self._shard_key(shard) or path.stat().st_size != note["bytes"]:
                return None
            image = self._image(shard, path, note)
            return image if image.graph.is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _make(self, shard: Shard) -> Image:
        path = self.folder / f"{shard.name}.image"
        try:
            with (self.folder / LOCK).open("w") as file:
                lock(file, wait=True)
                return self._read(shard) or self._pack(shard, path)  # another process may have made it meanwhile
        except OSError as error:
            raise LlamaOnnxError(
                f"{path}: cannot be written ({error.strerror}); free some space, or give a larger poolsize"
            ) from None

    def _pack(self, shard: Shard, path: Path) -> Image:
        with _scratch_folder(self.folder) as scratch:
            pack(shard, scratch / "slot.onnx", "slot.bin")
            packed = read_graph(scratch / "slot.onnx").initializers
            kind = self.folder / shard.kind
            if not kind.exists():
                self._make_kind(shard, scratch)
                (scratch / "kind").rename(kind)
            unread = set(_shared_tensors(shard))
            if not json.loads((kind / NOTE).read_text())["scales_are_read"]:
                unread |= {tensor.name for tensor in _scales(packed)}
            regions = _regions(packed, unread)
            data = scratch / "slot.bin"
            note = {
                "key": self._shard_key(shard),
                "bytes": sum(region.length for region in regions),
                "regions": [asdict(region) for region in regions],
                "kind": shard.kind,
            }
            _copy_regions(data if data.exists() else kind / "slot.bin", regions, path)
        _write(path.with_suffix(".json"), json.dumps(note).encode())  # last: it makes the image valid
        return self._image(shard, path, note)

    def _make_kind(self, shard: Shard, scratch: Path) -> None:
        """Make what the slots of a kind start from, of the first of its shards that was packed."""
        graph = scratch / "slot.onnx"
        relocate(graph, _shared_tensors(shard))  # or every slot would hold its own
        for file in self._shared(shard):
            shutil.copyfile(file, scratch / file.name)
        note = {"scales_are_read": self._are_scales_read(shard, graph)}
        folder = scratch / "kind"
        folder.mkdir()
        for name in ("slot.onnx", "slot.bin"):
            (scratch / name).rename(folder / name)
        (folder / NOTE).write_text(json.dumps(note))

    def _are_scales_read(self, shard: Shard, graph: Path) -> bool:
        """Try out whether the scales of packed matrices are computed from.

        Kernels that pack them along with the matrix never look at the originals again, which are 5 % of the bytes.
        """
        session = Session(shard, graph, fold=False)
        before = [self_check.compute(session, self._config, tokens) for tokens in TRIED]
        with graph.with_name("slot.bin").open("r+b") as file:
            for tensor in _scales(read_graph(graph).initializers):
                _, offset, length = tensor.location
                originals = os.pread(file.fileno(), length, offset)
                os.pwrite(file.fileno(), bytes(length), offset)  # the session maps the file, and would see it
                after = [self_check.compute(session, self._config, tokens) for tokens in TRIED]
                os.pwrite(file.fileno(), originals, offset)
                if not all(map(np.array_equal, before, after)):
                    return True
        return False

    def _shared(self, shard: Shard) -> tuple[Path, ...]:
        own = shard.path.with_suffix(".bin").name
        return tuple(shard.path.with_name(name) for name in shard.data_files if name != own)

    def _image(self, shard: Shard, path: Path, note: dict[str, Any]) -> Image:
        kind = path.with_name(note["kind"])
        regions = tuple(Region(**region) for region in note["regions"])
        return Image(path, kind / "slot.onnx", kind / "slot.bin", regions, self._shared(shard))

    def _shard_key(self, shard: Shard) -> str:
        return hashlib.sha256(f"{self._key} {shard.digest}".encode()).hexdigest()


def round_up(size: int) -> int:
    """Return the size in whole pages."""
    return -(-size // PAGE) * PAGE


def forget_pages(descriptor: int) -> None:
    """Drop a file's pages from the cache: they must not count as memory."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _shared_tensors(shard: Shard) -> dict[str, tuple[str, int, int]]:
    """Return where the initializers of a shard lie that are not its own."""
    own = shard.path.with_suffix(".bin").name
    tensors = read_graph(shard.path).initializers
    return {tensor.name: tensor.location for tensor in tensors if tensor.location[0] not in ("", own)}


def _scales(tensors: Sequence[Initializer]) -> list[Initializer]:
    """Return the scales of the matrices that were packed."""
    packed = {tensor.name.removesuffix(MATRIX) for tensor in tensors if _packed_spans(tensor)}
    return [tensor for tensor in tensors if tensor.name.endswith(SCALES) and tensor.name.removesuffix(SCALES) in packed]


def _regions(tensors: Sequence[Initializer], unread: Container[str]) -> list[Region]:
    """Return the stretches of a packed file that hold tensors, but for those that are not read."""
    spans = [
        span
        for tensor in tensors
        if tensor.name not in unread and tensor.location[0]
        for span in _packed_spans(tensor) or [tensor.location[1:]]
    ]
    return _merged([_whole_pages(offset, length) for offset, length in spans if length])


def _packed_spans(tensor: Initializer) -> list[tuple[int, int]]:
    """Return (offset, length) of what a matrix was packed into; its original is not read any more.

    The file says `prepacked_0 = key|offset;length;…`.
    """
    entries = [entry for name, entry in tensor.external_data.items() if name.startswith("prepacked")]
    parts = [part.split(";") for entry in entries for part in entry.split("|")[1:]]
    return [(int(part[0]), int(part[1])) for part in parts]


def _whole_pages(offset: int, length: int) -> Region:
    """Small tensors begin anywhere: what shares their pages comes along, it belongs to the same shard."""
    start = offset // PAGE * PAGE
    return Region(start, round_up(offset + length) - start)


def _merged(regions: list[Region]) -> list[Region]:
    merged: list[Region] = []
    for region in sorted(regions, key=lambda region: region.offset):
        last = merged[-1] if merged else None
        if last and region.offset <= last.offset + last.length:
            merged[-1] = Region(last.offset, max(last.length, region.offset + region.length - last.offset))
        else:
            merged.append(region)
    return merged


def _copy_regions(source: Path, regions: Sequence[Region], target: Path) -> None:
    temporary = target.with_name(target.name + ".tmp")
    with source.open("rb") as read, temporary.open("wb") as write:
        for region in regions:
            read.seek(region.offset)
            write.write(read.read(region.length).ljust(region.length, b"\0"))
        write.flush()
        os.fsync(write.fileno())
        forget_pages(write.fileno())
    temporary.replace(target)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


@contextlib.contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a folder for packing one shard, and remove it afterwards.

    A child forked meanwhile leaves it alone when it exits, unlike with `tempfile.TemporaryDirectory`.
    """
    owner = os.getpid()
    folder = Path(tempfile.mkdtemp(prefix=f"scratch-{owner}-", dir=parent))
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)


def _machine_key() -> str:
    """Identify what packed bytes depend on."""
    import onnxruntime

    cpu = platform.processor() + platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            cpu += "".join(sorted({line for line in info if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        pass
    return hashlib.sha256(f"{VERSION} {onnxruntime.__version__} {cpu}".encode()).hexdigest()[:16]


def _writable_folder(config: ModelConfig, key: str) -> Path:
    beside = config.directory / FOLDER / key
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama_onnx"
    digest = hashlib.sha256(str(config.directory.resolve()).encode()).hexdigest()[:16]
    for folder in (beside, cache / digest / key):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise LlamaOnnxError(f"neither {beside} nor {cache} can be written; packed images need a place to be kept")
