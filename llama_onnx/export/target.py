"""The place of a model directory: what may be replaced there, and how."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import ModelDirectoryError
from ..model_directory import ASIDE, MANIFEST

JOURNAL = "progress.json"  # of the finished shards of a partial directory
LOCK = "lock"  # held while a partial directory is written


def check_target(out: Path, folder: Path, inputs: Iterable[Path]) -> None:
    """Raise ModelDirectoryError if writing would overwrite something other than a model."""
    if out.exists() and not out.is_dir():
        raise ModelDirectoryError(f"{out}: is a file; name a directory")
    for path in inputs:
        files = (path.resolve(), path.parent.resolve() / path.name)  # the file, and the link to it if it is one
        for place in (out, folder, aside(out)):
            if any(file.is_relative_to(place.resolve()) for file in files):
                raise ModelDirectoryError(f"{place}: holds the input itself; name another directory for the output")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MANIFEST).is_file():
            raise ModelDirectoryError(f"{out}: holds files that are not a model; name another directory, or empty it")
        strangers = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        strangers = sorted(set(strangers) - {MANIFEST, LOCK, *_listed(out)})
        if strangers:
            raise ModelDirectoryError(
                f"{out}: holds {strangers[0]!r}, which does not belong to the model there and would be lost; "
                "move it away, or name another directory"
            )
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / n).is_file() for n in (LOCK, JOURNAL, MANIFEST)):
        raise ModelDirectoryError(
            f"{folder}: holds files of something else, but is where {out.name} is written until it is complete; "
            "move it away"
        )


def _listed(out: Path) -> set[str]:
    try:
        return set(json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError):
        raise ModelDirectoryError(f"{out / MANIFEST}: is damaged; remove the directory, or name another one") from None


def aside(out: Path) -> Path:
    """Return where a model is kept while it is being replaced."""
    return out.with_name(ASIDE.format(out.name))


def flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_directory(folder: Path, out: Path) -> None:
    """Rename a complete directory to its final place. A model there is moved aside first and then removed."""
    old = aside(out)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    folder.rename(out)
    if os.name == "posix":
        flush(out.parent)
    shutil.rmtree(old, ignore_errors=True)
