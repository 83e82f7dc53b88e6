"""Images: the bytes a loaded shard computes from, laid out as a slot takes them.

The image of a float shard is its own data file. A quantised shard computes from matrices that ONNX Runtime packs for
the CPU; packing takes longer than reading, so the packed bytes are written once per machine. They depend on the version
of ONNX Runtime and on the CPU, so an image carries a key and is made again when the key is another.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .config import ModelConfig, Shard
from .errors import LlamaOnnxError, ModelDirectoryError
from .onnx_file import read_graph
from .session import pack

PAGE = 4096
FOLDER = ".packed"
VERSION = 1  # of the layout of an image and its note


@dataclass(frozen=True)
class Region:
    """A stretch of a slot's file that differs from shard to shard. Both are multiples of a page."""

    offset: int
    length: int


@dataclass(frozen=True)
class Image:
    """Where the bytes of a shard are, and where they go: `path` holds the regions one after another.

    `graph` is the ONNX file to make a slot's session from, and `data` the file it reads; they are those of one shard of
    the kind. `constant` tells which stretches of the data are the same for all shards of the kind.
    """

    path: Path
    graph: Path
    data: Path
    regions: tuple[Region, ...]
    constant: tuple[Region, ...] = ()

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
            return Image(data, shard.path, data, (Region(0, size),))
        return self._read(shard) or self._make(shard)

    def missing(self, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards whose image must still be made."""
        return [shard for shard in shards if shard.quantized and not self._read(shard)]

    def make_all(
        self, shards: Sequence[Shard], progress: Callable[[int, int], object] = lambda done, total: None
    ) -> None:
        """Make what is missing; an interrupted run goes on where it was. `progress` is told (done, total)."""
        missing = self.missing(shards)
        for scratch in self.folder.glob("scratch-*") if missing else ():  # of a run that was killed
            if not Path("/proc", scratch.name.split("-")[1]).exists():
                shutil.rmtree(scratch, ignore_errors=True)
        for done, shard in enumerate(missing):
            progress(done, len(missing))
            self._make(shard)
        if missing:
            progress(len(missing), len(missing))

    def _read(self, shard: Shard) -> Image | None:
        """Return the image if it is whole and of this shard, runtime and CPU."""
        path = self.folder / f"{shard.name}.image"
        try:
            note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if note["key"] != self._shard_key(shard) or path.stat().st_size != note["bytes"]:
                return None
            image = _image(path, note)
            return image if image.graph.is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _make(self, shard: Shard) -> Image:
        path = self.folder / f"{shard.name}.image"
        try:
            with tempfile.TemporaryDirectory(prefix=f"scratch-{os.getpid()}-", dir=self.folder) as name:
                scratch = Path(name)
                pack(shard, scratch / "slot.onnx", "slot.bin")
                regions, constant = _regions(scratch / "slot.onnx")
                note = {
                    "key": self._shard_key(shard),
                    "bytes": sum(region.length for region in regions),
                    "regions": [asdict(region) for region in regions],
                    "constant": [asdict(region) for region in constant],
                    "kind": shard.kind,
                }
                _copy_regions(scratch / "slot.bin", regions, path)
                if not (self.folder / shard.kind).exists():
                    (scratch / "kind").mkdir()
                    for file in ("slot.onnx", "slot.bin"):
                        (scratch / file).rename(scratch / "kind" / file)
                    (scratch / "kind").rename(self.folder / shard.kind)
            _write(path.with_suffix(".json"), json.dumps(note).encode())  # last: it makes the image valid
        except OSError as error:
            raise LlamaOnnxError(
                f"{path}: cannot be written ({error.strerror}); free some space, or give a larger poolsize"
            ) from None
        return _image(path, note)

    def _shard_key(self, shard: Shard) -> str:
        return hashlib.sha256(f"{self._key} {shard.digest} {VERSION}".encode()).hexdigest()


def round_up(size: int) -> int:
    """Return the size in whole pages."""
    return -(-size // PAGE) * PAGE


def _image(path: Path, note: dict[str, Any]) -> Image:
    regions, constant = (tuple(Region(**region) for region in note[name]) for name in ("regions", "constant"))
    kind = path.with_name(note["kind"])
    return Image(path, kind / "slot.onnx", kind / "slot.bin", regions, constant)


def _regions(graph: Path) -> tuple[list[Region], list[Region]]:
    """Return which stretches of a packed file are computed from: those of the layer, and those all layers share.

    A matrix that was packed is followed by `prepacked_0 = key|offset;length;…`; its original is not read any more.
    """
    own: list[Region] = []
    shared: list[Region] = []
    for tensor in read_graph(graph).initializers:
        external = tensor.external_data
        packed = [entry.split("|", 1)[1] for name, entry in external.items() if name.startswith("prepacked")]
        spans = [tuple(map(int, part.split(";")[:2])) for entry in packed for part in entry.split("|")]
        if not packed:
            spans = [(int(external["offset"]), int(external["length"]))]
        regions = own if tensor.name.startswith("model.layers.") else shared
        regions.extend(_whole_pages(offset, length) for offset, length in spans if length)
    return _merged(own), _merged(shared)


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
        if hasattr(os, "posix_fadvise"):  # what was written must not count as memory
            os.posix_fadvise(write.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    temporary.replace(target)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _machine_key() -> str:
    """Identify what packed bytes depend on."""
    import onnxruntime

    cpu = platform.processor() + platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            cpu += "".join(sorted({line for line in info if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        pass
    return hashlib.sha256(f"{onnxruntime.__version__} {cpu}".encode()).hexdigest()[:16]


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
