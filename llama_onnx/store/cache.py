"""The cache of models that are ready to run: `models/NAME/PRECISION`, each a model directory with its `source.json`.

A model is made in `models/NAME/.making` and renamed to its place when it is whole. So whatever has its place in the
cache is whole, and an interrupted export continues where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelDirectoryError
from ..files.file_lock import lock
from ..model_directory import MANIFEST, read_config
from .names import is_key

SOURCE = "source.json"
MAKING = ".making"
PARTIAL = ".partial"  # how the export marks a directory that it is writing


@dataclass(frozen=True)
class CachedModel:
    """A whole model in the cache.

    Attributes:
        key: the name of its folder.
        precision: how its weights are stored.
        directory: the model directory.
        source: what it was made from: `name`, `kind` ('hub' or 'file'), `commit` or `path`, …
    """

    key: str
    precision: str
    directory: Path
    source: dict[str, Any]

    @property
    def name(self) -> str:
        """The name to give for it: `org/name[/file.gguf][@revision]`, or its key."""
        return str(self.source["name"]) if self.source.get("kind") == "hub" else self.key

    @property
    def bytes(self) -> int:
        """What it takes on disk, packed layers included."""
        return bytes_of(self.directory)

    @property
    def used(self) -> float:
        """When it was last asked for, in seconds since 1970."""
        return (self.directory / SOURCE).stat().st_mtime


@dataclass(frozen=True)
class Unfinished:
    """What an interrupted export left: it can be continued or removed, and is no model. `bytes` are those on disk."""

    key: str
    precision: str
    bytes: int


class Cache:
    """The cache in a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """Take a folder, or by default LLAMA_ONNX_CACHE, or else `llama_onnx` in the user's folder of caches."""
        self.folder = folder or cache_folder()
        self.models = self.folder / "models"

    def find(self, key: str, precision: str | None = None) -> CachedModel | None:
        """Return a model, or None if it is not there.

        Args:
            key: the name of its folder.
            precision: None takes the one that was chosen by default, or else the one that was made last.
        """
        found = [model for model in self._whole(key) if precision in (None, model.precision)]
        return max(found, key=lambda m: (m.source.get("default") is True, m.source.get("made", 0)), default=None)

    def all(self) -> list[CachedModel]:
        """Return every whole model, by name and precision."""
        return sorted(
            (model for key in self._keys() for model in self._whole(key)), key=lambda m: (m.name, m.precision)
        )

    def unfinished(self, key: str | None = None) -> list[Unfinished]:
        """Return what interrupted exports left, of one model or of all. Damaged models count too."""
        found = []
        for name in self._keys() if key is None else [key]:
            whole = {model.precision for model in self._whole(name)}
            broken = [path for path in _folders(self.models / name) if path.name not in whole]
            for path in [*_folders(self.models / name / MAKING), *broken]:
                found.append(Unfinished(name, path.name.removesuffix(PARTIAL).lstrip("."), bytes_of(path)))
        return found

    @contextlib.contextmanager
    def locked(self, key: str, wait: Callable[[], object] | None) -> Iterator[None]:
        """Hold the lock of a model, so that only one process makes or removes it.

        Args:
            key: the name of its folder.
            wait: called before waiting for another process; None raises an error instead.

        Raises:
            ModelDirectoryError: another process has the lock, or the folder cannot be written.
        """
        path = self.folder / "locks" / f"{key}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise _cannot_write(self.folder, error) from None
        with file:  # closing it releases the lock; the file stays, because another process may be waiting for it
            if not lock(file):
                if wait is None:
                    raise ModelDirectoryError(f"{key}: another process is making this model; wait for it to end")
                wait()
                lock(file, wait=True)
            yield

    def make(
        self, key: str, precision: str, source: dict[str, Any], write: Callable[[Path], object], default: bool
    ) -> CachedModel:
        """Make a model, in place of an older one. The caller holds its lock.

        Args:
            key: the name of its folder.
            precision: how the weights are stored; the name of the folder inside.
            source: what it is made from, to be recorded beside it.
            write: writes the model directory that it is given. What it left behind when interrupted is still there.
            default: whether the precision was chosen by default.
        """
        place, making = self.models / key / precision, self.models / key / MAKING / precision
        try:
            making.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(making, ignore_errors=True)  # whole, but the process died before it was renamed
        except OSError as error:
            raise _cannot_write(self.folder, error) from None
        write(making)
        record = {**source, "precision": precision, "default": default, "made": time.time()}
        try:
            (making / SOURCE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            if place.exists():
                self._discard(place)
            making.rename(place)
        except OSError as error:
            raise _cannot_write(place, error) from None
        with contextlib.suppress(OSError):
            making.parent.rmdir()  # unless another precision is unfinished
        return CachedModel(key, precision, place, record)

    def touch(self, model: CachedModel) -> None:
        """Record that a model was asked for."""
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(model.directory / SOURCE)

    def remove(self, key: str, precision: str | None = None) -> None:
        """Remove a model in one precision, or in all, with what interrupted exports of it left.

        Raises:
            ModelDirectoryError: another process is making it, or it cannot be removed.
        """
        folder = self.models / key
        if not is_key(key) or not folder.is_dir():
            raise ModelDirectoryError(f"{key}: not in the cache; llama-onnx list shows what is")
        with self.locked(key, wait=None):
            try:
                for path in _folders(folder):
                    if precision in (None, path.name):
                        self._discard(path)
                for path in _folders(folder / MAKING):
                    if precision is None or path.name.removesuffix(PARTIAL).lstrip(".") == precision:
                        shutil.rmtree(path)
                for left in (folder / MAKING, folder):
                    with contextlib.suppress(OSError):
                        left.rmdir()
            except OSError as error:
                raise _cannot_write(folder, error) from None

    def _discard(self, place: Path) -> None:
        """Remove a model. It leaves its place in one step, so that no half of it is ever there."""
        aside = place.parent / MAKING / f".{place.name}"
        aside.parent.mkdir(exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        shutil.rmtree(aside)

    def _keys(self) -> list[str]:
        return [path.name for path in _folders(self.models) if is_key(path.name)]

    def _whole(self, key: str) -> list[CachedModel]:
        models = (_read(key, path) for path in _folders(self.models / key) if is_key(key))
        return [model for model in models if model is not None]


def cache_folder() -> Path:
    """Return LLAMA_ONNX_CACHE, or `llama_onnx` in XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("LLAMA_ONNX_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "llama_onnx"


def bytes_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _read(key: str, directory: Path) -> CachedModel | None:
    """Return the model in a directory, or None if there is no whole one."""
    try:
        source = json.loads((directory / SOURCE).read_text(encoding="utf-8"))
        if not (directory / MANIFEST).is_file():
            return None
        read_config(directory)
    except (OSError, ValueError, ModelDirectoryError):
        return None
    return (
        CachedModel(key, directory.name, directory, source) if isinstance(source, dict) and "name" in source else None
    )


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without the one where models are made."""
    try:
        return sorted(path for path in folder.iterdir() if path.name != MAKING and path.is_dir())
    except OSError:
        return []


def _cannot_write(path: Path, error: OSError) -> ModelDirectoryError:
    return ModelDirectoryError(
        f"{path}: cannot be written ({error.strerror}); LLAMA_ONNX_CACHE names another folder for the cache"
    )
