"""From a MODEL to a directory that can be loaded: found in the cache, or downloaded and exported into it first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ModelDirectoryError
from .cache import Cache, CachedModel
from .hub import download, is_offline
from .names import Kind, Name, parse_name
from .transfer import Progress

Prepare = Callable[[Path, Path, str], object]  # writes a model directory: source, out, precision
Choose = Callable[[Path], str]  # returns the default precision for a source
Report = Callable[[str], object]


class ModelStore:
    """Finds and makes models. It is told how a model is made, and does not know the exporter."""

    def __init__(
        self,
        ready: Callable[[], object],
        prepare: Prepare,
        choose: Choose,
        report: Report,
        progress: Progress,
        offline: bool = False,
    ) -> None:
        """Open the user's cache.

        Args:
            ready: called before a model is made; raises an error if that cannot be done.
            prepare: writes the model directory `out` from the checkpoint `source` in a precision.
            choose: returns the precision of a checkpoint where none is asked for.
            report: called with lines about what is being done.
            progress: called while a large file is downloaded.
            offline: never connect. HF_HUB_OFFLINE does the same.
        """
        self.cache = Cache()
        self._ready, self._prepare, self._choose, self.report = ready, prepare, choose, report
        self._progress = progress
        self._offline = offline or is_offline()

    def get(self, text: str) -> Path:
        """Return the model directory of a MODEL, which is made if it is not in the cache.

        Nothing is downloaded, and the hub is not asked, if it is there.

        Raises:
            ModelDirectoryError: there is no such model, or it cannot be downloaded or exported.
            MissingDependencyError: an optional package is needed for that.
        """
        name = parse_name(text, self.cache.models)
        if name.kind is Kind.DIRECTORY:
            return Path(text)
        model = self.cache.find(name.key, name.precision) or self._make(name, name.precision)
        self.cache.touch(model)
        return model.directory

    def pull(self, text: str, precision: str | None = None) -> CachedModel:
        """Return a model in the cache, made anew if the hub has a newer one.

        Args:
            text: a MODEL.
            precision: how the weights are to be stored; None for the one in the name, or the default.

        Raises:
            ModelDirectoryError, MissingDependencyError: see `get`; or it is a model directory already.
        """
        name = parse_name(text, self.cache.models)
        if name.kind is Kind.DIRECTORY:
            raise ModelDirectoryError(f"{text}: is a model directory already; give it to -m as it is")
        if name.kind is Kind.CACHED and (model := self.cache.find(name.key)):
            name = self._origin(model, name.precision)
        model = self.cache.find(name.key, precision or name.precision)
        if model and (name.kind is not Kind.HUB or self._offline):
            self.report(f"{model.name} is already in the cache as {model.precision}")
            return model
        return self._make(name, precision or name.precision, refresh=True)

    def source(self, text: str) -> Path:
        """Return the path of a checkpoint: an existing one as it is, one on the hub after downloading it.

        Raises:
            ModelDirectoryError, MissingDependencyError: see `get`.
        """
        if Path(text).exists():
            return Path(text)
        name = parse_name(text, self.cache.models)
        if name.kind is Kind.HUB:
            return download(name, self._offline, report=self.report, progress=self._progress)[0]
        if name.kind is Kind.CACHED:
            return self.get(text)
        return Path(text)

    def entry(self, text: str) -> tuple[str, str | None]:
        """Return the folder of a MODEL in the cache, and its precision (None for all).

        Raises:
            ModelDirectoryError: nothing of it is in the cache.
        """
        name = parse_name(text, self.cache.models)
        found = [model.precision for model in self.cache.all() if model.key == name.key]
        found += [one.precision for one in self.cache.unfinished(name.key)] if name.key else []
        if not found or name.precision not in (None, *found):
            raise ModelDirectoryError(f"{text}: not in the cache; llama-onnx list shows what is")
        return name.key, name.precision

    def _origin(self, model: CachedModel, precision: str | None) -> Name:
        """Return the name of what a cached model was made from."""
        if model.source.get("kind") == "hub":
            return Name(Kind.HUB, model.name, model.key, precision)
        return Name(Kind.CHECKPOINT, str(model.source.get("path")), model.key, precision)

    def _make(self, name: Name, precision: str | None, refresh: bool = False) -> CachedModel:
        """Download and export a model, unless another process has just done so."""
        if name.kind is Kind.CACHED:
            have = ", ".join(model.precision for model in self.cache.all() if model.key == name.key) or "nothing whole"
            raise ModelDirectoryError(
                f"{name.text}: not in the cache as {name.precision or 'a whole model'} (there: {have}); "
                "make it with llama-onnx pull"
            )

        def wait() -> None:
            self.report(f"{name.text}: another process is making this model; waiting for it")

        self._ready()
        with self.cache.locked(name.key, wait):
            found = self.cache.find(name.key, precision)
            if found and not refresh:
                return found
            source, record = self._fetch(name)
            chosen = precision or self._choose(source)
            found = self.cache.find(name.key, chosen)
            if found and found.source.get("commit") == record.get("commit"):
                self.report(f"{found.name} is already in the cache as {chosen}")
                return found
            place = self.cache.models / name.key / chosen
            self.report(f"exporting {name.text} as {chosen} to {place}")
            return self.cache.make(
                name.key, chosen, record, lambda out: self._prepare(source, out, chosen), default=precision is None
            )

    def _fetch(self, name: Name) -> tuple[Path, dict[str, Any]]:
        """Return the checkpoint of a name, and what is recorded about it."""
        if name.kind is Kind.HUB:
            found, commit = download(name, self._offline, self.cache.models, self.report, self._progress)
            return found, {
                "name": name.text, "kind": "hub", "commit": commit, "download": str(found),
                "producer": f"llama_onnx {__version__}",
            }  # fmt: skip
        path = Path(name.text).resolve()
        if not path.exists():
            raise ModelDirectoryError(f"{name.text}: no longer there; give the checkpoint of this model")
        return path, {"name": name.key, "kind": "file", "path": str(path), "producer": f"llama_onnx {__version__}"}
