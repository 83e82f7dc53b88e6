"""Writes a model directory shard by shard beside its final place, and renames it when it is complete.

Until then the files are in `OUT.partial`, with a journal of the finished shards. If a run is interrupted, the next one
with the same key resumes it, and keeps the shards whose files still match their hashes.

A model that is being replaced is moved aside between two renames. If the process dies at that moment, the next run
moves it back. Only files that were written here are ever removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .. import __version__
from ..config import Shard
from ..errors import LlamaOnnxError, ModelDirectoryError
from ..files.file_lock import lock
from ..memory import format_size
from ..model_directory import FORMAT, FORMAT_VERSION, MANIFEST
from .graphs.graph import Graph, WeightFile
from .graphs.stored import read_graph
from .packages import onnx
from .target import JOURNAL, LOCK, aside, check_target, flush, replace_directory

T = TypeVar("T")


class ModelWriter:
    """A model directory that is being written, as a context manager.

    Leaving it without `finish` keeps the finished shards for the next run if this one was interrupted, and removes them
    after an error in the input.
    """

    def __init__(self, out: Path, key: dict[str, Any], inputs: Iterable[Path] = (), needed_bytes: int = 0) -> None:
        """Prepare to write `out`.

        Args:
            out: the directory to make. An existing model there is replaced once the new one is complete.
            key: identifies source and options. A partial directory with another key is discarded.
            inputs: files that are read. None may be inside `out`.
            needed_bytes: the least the files will take; 0 if unknown.

        Raises:
            ModelDirectoryError: `out` holds other files or the input, another process is writing it, or the disk is too
                full.
        """
        if out.is_symlink():
            out = out.resolve()  # the link stays, and what it points to is written
        if out.name in ("", ".."):
            out = Path(os.path.abspath(out))
        if not out.name:
            raise ModelDirectoryError(f"{out}: cannot be a model directory; name a directory inside it")
        self.out = out
        self.folder = out.with_name(out.name + ".partial")
        self._key = json.loads(json.dumps(key))
        self._done: dict[str, dict[str, Any]] = {}  # what the journal keeps of each shard
        self._files: dict[str, dict[str, Any]] = {}
        self._finished: dict[str, Any] = {}
        self._resumed = False
        self._needed_bytes = needed_bytes
        try:
            check_target(out, self.folder, inputs)
        except OSError as error:
            raise ModelDirectoryError(f"{out}: cannot be written ({error.strerror})") from None

    def __enter__(self) -> ModelWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder / LOCK, self.out)
            try:
                if aside(self.out).is_dir() and not self.out.exists():
                    aside(self.out).rename(self.out)
                self._finished = self._read_journal()
                self._check_space()
                if not self._resumed:
                    self._write_journal()  # so that a run that stops before its first shard can be resumed too
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise ModelDirectoryError(f"{self.out}: cannot be written ({error.strerror})") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, LlamaOnnxError):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        if isinstance(error, OSError):
            raise ModelDirectoryError(
                f"{self.out}: writing failed ({error.strerror}); finished shards are kept, run the same command again"
            ) from None

    @property
    def resumed(self) -> bool:
        """Whether this run continues an earlier one with the same key."""
        return self._resumed

    def shard(self, name: str, build: Callable[[Graph], None], shared: Iterable[str] = ()) -> None:
        """Write `name.onnx` and `name.bin`, unless an earlier run already has.

        Args:
            name: of the shard.
            build: adds nodes and weights to the graph.
            shared: data files of other shards that this one also reads.
        """
        files = (f"{name}.onnx", f"{name}.bin")
        done = self._finished.get(name)
        if done and all(self._matches(file, done["files"][file]) for file in files):
            self._add(done)
            return
        with WeightFile(self.folder / files[1]) as weights:
            graph = Graph(name, weights)
            build(graph)
        data = weights.entry
        graph.save(self.folder / files[0])
        entry = {
            "name": name,
            "file": files[0],
            "data_files": [files[1], *shared],
            "file_bytes": data["bytes"] + (self.folder / files[0]).stat().st_size,
            "loaded_bytes": graph.loaded_bytes,
            "kind": graph.kind(),
            "quantized": any(node.op_type in ("MatMulNBits", "DequantizeLinear") for node in graph.nodes),
        }
        self._add({
            "shard": entry,
            "files": {files[0]: file_entry(self.folder / files[0]), files[1]: data},
            "capabilities": sorted(graph.capabilities()),
        })  # fmt: skip
        self._write_journal()

    def written(self, name: str) -> Shard:
        """Return a shard that has been written, so that it can be run."""
        entry = self._done[name]["shard"]
        return Shard(
            name=f"{self.folder.name}/{name}",
            path=self.folder / entry["file"],
            data_files=tuple(entry["data_files"]),
            **{key: entry[key] for key in ("loaded_bytes", "file_bytes", "quantized")},
        )

    def data_file(self, name: str, write: Callable[[WeightFile], T]) -> T:
        """Write a data file that several shards read, and return what `write` returns."""
        with WeightFile(self.folder / name) as weights:
            written = write(weights)
        self._files[name] = weights.entry
        return written

    def copy(self, files: Mapping[str, Path | bytes]) -> None:
        """Copy auxiliary files (tokenizer, configuration). Those given as bytes are written."""
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, self.folder / name)
            else:
                (self.folder / name).write_bytes(content)
            self._files[name] = file_entry(self.folder / name)

    def graph(self, shard: str) -> onnx.GraphProto:
        """Return the graph of a shard that has been written. The weights stay in their data file."""
        return read_graph(self.folder / f"{shard}.onnx")

    def tensors(self, shard: str) -> dict[str, onnx.TensorProto]:
        """Return the initializers of a shard that has been written, by name."""
        return {tensor.name: tensor for tensor in self.graph(shard).initializer}

    def finish(self, architecture: str, model: dict[str, Any], precision: dict[str, str]) -> None:
        """Write the manifest, flush everything to disk and move the directory to its final place."""
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "producer": f"llama_onnx {__version__}",
            "architecture": architecture,
            "model": model,
            "precision": precision,
            "capabilities": sorted({name for done in self._done.values() for name in done["capabilities"]}),
            "shards": [done["shard"] for done in self._done.values()],
            "files": dict(sorted(self._files.items())),
        }
        (self.folder / JOURNAL).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name not in (*self._files, LOCK):
                path.unlink()  # left over from an interrupted run with other shards
        write_json(self.folder / MANIFEST, manifest)
        for path in self.folder.iterdir():
            flush(path)
        replace_directory(self.folder, self.out)
        (self.out / LOCK).unlink()  # held until now, so that no other run could start in the moved folder

    def _add(self, done: dict[str, Any]) -> None:
        self._done[done["shard"]["name"]] = done
        self._files.update(done["files"])

    def _matches(self, file: str, entry: dict[str, Any]) -> bool:
        path = self.folder / file
        return path.is_file() and path.stat().st_size == entry["bytes"] and file_entry(path) == entry

    def _read_journal(self) -> dict[str, Any]:
        try:
            journal = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
            finished = dict(journal["shards"])
            if journal["key"] == self._key and all("capabilities" in done for done in finished.values()):
                self._resumed = True
                return finished
        except (OSError, ValueError, KeyError):
            pass
        for path in self.folder.iterdir():  # made with other options, or unfinished: it only takes space
            if path.name != LOCK:
                path.unlink()
        return {}

    def _check_space(self) -> None:
        there = sum(entry["bytes"] for shard in self._finished.values() for entry in shard["files"].values())
        needed, free = self._needed_bytes - there, shutil.disk_usage(self.folder).free
        if needed > free:
            if not self._finished:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise ModelDirectoryError(
                f"{self.out}: needs {format_size(needed)}, {format_size(free)} are free on its disk; "
                "free some space, or name a directory on another disk"
            )

    def _write_journal(self) -> None:
        write_json(self.folder / JOURNAL, {"key": self._key, "shards": self._done})


def file_entry(path: Path) -> dict[str, Any]:
    """Return the manifest's entry for a file: bytes and sha256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _lock(path: Path, out: Path) -> Any:
    """Lock the directory while it is being written. Systems without file locks go without."""
    file = path.open("a")
    if not lock(file):
        file.close()
        raise ModelDirectoryError(f"{out}: another process is writing it; wait for it, or name another directory")
    return file
