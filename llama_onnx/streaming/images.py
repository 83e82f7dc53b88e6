"""Images: files with the bytes that a loaded shard computes from, in the layout of a slot.

The image of a float shard is its own data file. A quantised shard computes from matrices that ONNX Runtime packs for
the CPU. Packing takes longer than reading, so the packed bytes are written once per machine. They depend on the version
of ONNX Runtime and on the CPU, so an image has a key, and is made again when the key changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..config import ModelConfig, Shard
from ..errors import LlamaOnnxError, ModelDirectoryError
from ..files.file_lock import lock
from ..files.onnx_file import read_graph, relocate
from ..session import Session, open_session, session_options
from . import self_check
from .layout import Layout, scales_of, spans_of
from .regions import Region, round_up
from .tables import shared_tensors, with_short_tables

FOLDER = ".packed"
NOTE = "note.json"
LOCK = "lock"
PACKING = "packing layers for this machine, once"
Progress = Callable[[str, int, int], object]  # called with what is being done, how many steps are done, and the total
TRIED = (1, 3, 40)  # tokens per pass: a single token and many tokens use different kernels
VERSION = 4  # version of the layout of an image and its note


@dataclass(frozen=True)
class Image:
    """Where the bytes of a shard are stored, and where a slot needs them.

    Attributes:
        path: the file that holds the regions, one after another.
        graph: the ONNX file to make a slot's session from. It belongs to one of the shards of this kind.
        data: the data file of `graph`.
        regions: where the bytes go in the slot's copy of `data`.
        shared: files that the graphs of all shards read: rope tables.
        layout: the digest of the layout of a packed image; only images of one layout fit into a slot.
    """

    path: Path
    graph: Path
    data: Path
    regions: tuple[Region, ...]
    shared: tuple[Path, ...] = ()
    layout: str = ""

    @property
    def bytes(self) -> int:
        """Number of bytes that one load reads."""
        return sum(region.length for region in self.regions)


class Images:
    """The images of a model's shards, stored beside the model or, where that is not possible, in the user's cache."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._key = _machine_key()

    @cached_property
    def folder(self) -> Path:
        """The folder with the packed images, made when the first quantised shard needs it."""
        return _writable_folder(self._config, self._key)

    def get(self, shard: Shard) -> Image:
        """Return the image of a shard; pack the shard first if there is no image, or an outdated one.

        Raises:
            LlamaOnnxError: there is no space for the image, or the shard cannot be read or packed.
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
        """Return the shards whose image has yet to be made."""
        return [shard for shard in shards if shard.quantized and not self._read(shard)]

    def make_all(self, shards: Sequence[Shard], progress: Progress = lambda doing, done, total: None) -> None:
        """Make all missing images. After an interruption, the next call continues where the last one stopped."""
        missing = self.missing(shards)
        for scratch in self.folder.glob("scratch-*") if missing else ():  # left by a process that was killed
            if not Path("/proc", scratch.name.split("-")[1]).exists():
                shutil.rmtree(scratch, ignore_errors=True)
        for done, shard in enumerate(missing):
            progress(PACKING, done, len(missing))
            self._make(shard)
        if missing:
            progress(PACKING, len(missing), len(missing))

    def _read(self, shard: Shard) -> Image | None:
        """Return the image if it is complete and was made from this shard, with this ONNX Runtime and on this CPU."""
        path = self.folder / f"{shard.name}.image"
        try:
            note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            layout = Layout.read(self._kind_folder(shard) / NOTE)
            if not layout or note["key"] != self._shard_key(shard) or note["kind"] != layout.digest:
                return None
            image = self._image(shard, path, layout)
            return image if path.stat().st_size == image.bytes and image.graph.is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _make(self, shard: Shard) -> Image:
        path = self.folder / f"{shard.name}.image"
        try:
            with (self.folder / LOCK).open("w") as file:
                lock(file, wait=True)
                return self._read(shard) or self._pack(shard, path)  # another process may have made it by now
        except OSError as error:
            raise LlamaOnnxError(
                f"{path}: cannot be written ({error.strerror}); free some disk space, or set a larger poolsize"
            ) from None

    def _pack(self, shard: Shard, path: Path) -> Image:
        with _scratch_folder(self.folder) as scratch:
            pack(with_short_tables(shard, scratch), scratch / "slot.onnx", "slot.bin")
            own = spans_of(read_graph(scratch / "slot.onnx"))
            folder = self._kind_folder(shard)
            if (layout := Layout.read(folder / NOTE)) is None:
                shutil.rmtree(folder, ignore_errors=True)  # it is damaged, if there is one
                self._make_kind(shard, scratch)
                (scratch / "kind").rename(folder)
                if (layout := Layout.read(folder / NOTE)) is None:
                    raise LlamaOnnxError(f"{folder}: was changed while it was written; try again")
            data = scratch / "slot.bin"
            try:
                layout.write_image(data if data.exists() else folder / "slot.bin", own, path)
            except ValueError:
                raise ModelDirectoryError(
                    f"{shard.path}: differs from the others of its kind; export the model again"
                ) from None
            note = {"key": self._shard_key(shard), "kind": layout.digest}
        _write(path.with_suffix(".json"), json.dumps(note).encode())  # written last: it makes the image valid
        return self._image(shard, path, layout)

    def _make_kind(self, shard: Shard, scratch: Path) -> None:
        """Make the files that all slots of a kind start from, out of the first of its shards to be packed."""
        graph = scratch / "slot.onnx"
        tables = shared_tensors(shard)  # otherwise every slot would have its own
        relocate(graph, {table.name: table.location for table in tables}, {table.name: table.shape for table in tables})
        unread = [table.name for table in tables]
        if not self._are_scales_read(shard, graph):
            unread += [tensor.name for tensor in scales_of(read_graph(graph))]
        folder = scratch / "kind"
        folder.mkdir()
        (folder / NOTE).write_bytes(Layout(spans_of(read_graph(graph), unread)).note())
        for name in ("slot.onnx", "slot.bin"):
            (scratch / name).rename(folder / name)

    def _are_scales_read(self, shard: Shard, graph: Path) -> bool:
        """Test whether the kernels read the scales of packed matrices.

        Some kernels pack the scales together with the matrix and never read the originals, 5 % of the bytes, again.
        """
        session = Session(shard, graph, fold=False)
        before = [self_check.compute(session, self._config, tokens) for tokens in TRIED]
        with graph.with_name("slot.bin").open("r+b") as file:
            for tensor in scales_of(read_graph(graph)):
                _, offset, length = tensor.location
                originals = os.pread(file.fileno(), length, offset)
                os.pwrite(file.fileno(), bytes(length), offset)  # the session maps the file, so it sees the zeros
                after = [self_check.compute(session, self._config, tokens) for tokens in TRIED]
                os.pwrite(file.fileno(), originals, offset)
                if not all(map(np.array_equal, before, after)):
                    return True
        return False

    def _kind_folder(self, shard: Shard) -> Path:
        if not shard.kind.isalnum():  # it comes from the manifest, and must not lead out of the folder
            raise ModelDirectoryError(
                f"{self._config.directory}: the kind {shard.kind[:40]!r} of {shard.name} is not a name; "
                "export the model again"
            )
        return self.folder / shard.kind

    def _shared(self, shard: Shard) -> tuple[Path, ...]:
        own = shard.path.with_suffix(".bin").name
        return tuple(shard.path.with_name(name) for name in shard.data_files if name != own)

    def _image(self, shard: Shard, path: Path, layout: Layout) -> Image:
        folder = self._kind_folder(shard)
        return Image(
            path, folder / "slot.onnx", folder / "slot.bin", layout.regions, self._shared(shard), layout.digest
        )

    def _shard_key(self, shard: Shard) -> str:
        return hashlib.sha256(f"{self._key} {shard.digest}".encode()).hexdigest()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


@contextlib.contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a folder for packing one shard, and remove it afterwards.

    `tempfile.TemporaryDirectory` would also remove it when a child that was forked in the meantime exits.
    """
    owner = os.getpid()
    folder = Path(tempfile.mkdtemp(prefix=f"scratch-{owner}-", dir=parent))
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)


def _machine_key() -> str:
    """Return a key of everything that packed bytes depend on: layout, ONNX Runtime and CPU."""
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
    raise LlamaOnnxError(f"cannot write packed images to {beside} or to {cache}; make one of these folders writable")


def pack(shard: Shard, graph: Path, data_name: str) -> None:
    """Write a quantised shard with its matrices packed for this CPU: the ONNX file `graph`, its data beside it.

    Raises:
        ModelDirectoryError: ONNX Runtime cannot load the shard.
    """
    options = session_options(prepack=True)
    options.optimized_model_filepath = str(graph)
    for name, value in (
        ("session.save_external_prepacked_constant_initializers", "1"),
        ("session.optimized_model_external_initializers_file_name", data_name),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "16"),
    ):
        options.add_session_config_entry(name, value)
    open_session(shard.path, options)
