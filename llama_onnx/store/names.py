"""What a MODEL names: a model directory, a checkpoint on this disk, a model in the cache, or one on the hub.

A precision may follow after a colon: `org/name:int4`. What exists on this disk comes first, so that a name never hides
a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote

from ..errors import ModelDirectoryError, RequestError
from ..model_directory import ASIDE, MANIFEST

HUB_ID = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:/(?P<file>\w[\w./-]*\.gguf))?(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
PRECISIONS = ("auto", "fast", "fp32", "fp16", "int8", "int4")
PART = re.compile(r"(.*)-\d{5}-of-\d{5}(\.gguf)")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "*.pth", "*.gguf")
CHECKPOINT_FILES = (".gguf", ".bin")
TOKENIZERS = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")  # what is read with a GGUF file
BESIDE = (*TOKENIZERS, "tok*.bin")  # the same with any single file
LONGEST = 200  # characters of a folder's name; file systems take 255


class Kind(Enum):
    """The kinds of MODEL."""

    DIRECTORY = "model directory"
    CHECKPOINT = "checkpoint"
    CACHED = "cached model"
    HUB = "model on the hub"


@dataclass(frozen=True)
class Name:
    """A parsed MODEL.

    Attributes:
        kind: what it names.
        text: the name without the precision: a path, `org/name[/file.gguf][@revision]`, or a name that `list` shows.
        key: the name of its folder in the cache; empty for a model directory.
        precision: the precision after the colon, if there is one.
    """

    kind: Kind
    text: str
    key: str = ""
    precision: str | None = None

    @property
    def repository(self) -> str:
        """The organisation and the name on the hub."""
        return _hub_parts(self.text)["repository"] or ""

    @property
    def file(self) -> str | None:
        """The GGUF file in the repository, if the name has one."""
        return _hub_parts(self.text)["file"]

    @property
    def revision(self) -> str | None:
        """The revision of a hub name, if it has one."""
        return _hub_parts(self.text)["revision"]


def parse_name(text: str, models: Path) -> Name:
    """Return what a MODEL names.

    Args:
        text: as the user gave it.
        models: the folder of the cache that holds a folder for each model.

    Raises:
        ModelDirectoryError: there is nothing of that name, and it cannot be a name on the hub.
    """
    found = _parse(text, models, None)
    base, colon, precision = text.rpartition(":")
    if found is None and base and colon and (of_base := _parse(base, models, precision)):
        if precision not in PRECISIONS:
            raise RequestError(f"{precision[:40]!r} is not a precision; after the colon goes {', '.join(PRECISIONS)}")
        found = of_base
    if found is not None:
        return found
    raise ModelDirectoryError(
        f"{' '.join(text.split())[:200]}: no such directory or file, and no such model in the cache; give a model "
        "directory, a checkpoint, organisation/name[/file.gguf] of a model on the Hugging Face hub, or a name that "
        "llama-onnx list shows"
    )


def _parse(text: str, models: Path, precision: str | None) -> Name | None:
    path = Path(text)
    if path.is_dir():
        if precision is None and not is_checkpoint(path):
            return Name(Kind.DIRECTORY, text)
        return Name(Kind.CHECKPOINT, text, local_key(path), precision)
    if path.exists():
        if path.suffix not in CHECKPOINT_FILES:
            raise ModelDirectoryError(f"{text}: not a model; give a directory, or a .gguf file")
        return Name(Kind.CHECKPOINT, text, local_key(path), precision)
    if path.name and path.with_name(ASIDE.format(path.name)).is_dir():  # reading it says what happened to the model
        return Name(Kind.DIRECTORY, text)
    if is_key(text) and (models / text).is_dir():
        return Name(Kind.CACHED, text, text, precision)
    if is_hub_id(text):
        return Name(Kind.HUB, text, hub_key(text), precision)
    return None


def is_checkpoint(directory: Path) -> bool:
    """Return whether a directory holds a checkpoint to be exported, and no model that can run as it is."""
    if (directory / MANIFEST).exists() or (directory / "embed.onnx").exists():
        return False
    return any(next(directory.glob(pattern), None) is not None for pattern in WEIGHTS)


def is_hub_id(text: str) -> bool:
    """Return whether a text has the form `organisation/name[/file.gguf][@revision]`, as the hub allows it."""
    parts = _hub_parts(text)
    repository = parts["repository"] or ""
    if not repository or ".." in text or "--" in repository:
        return False
    return not repository.endswith(CHECKPOINT_FILES)  # then a file was meant


def hub_key(text: str) -> str:
    """Return the folder name of a hub name. Different names have different folders."""
    parts = _hub_parts(text)
    key = (parts["repository"] or "").replace("/", "--")
    key += f"--{quote(parts['file'], safe='')}" if parts["file"] else ""
    key += f"@{quote(parts['revision'], safe='')}" if parts["revision"] else ""
    if len(key) > LONGEST:
        raise ModelDirectoryError(f"{text[:60]}…: this name is too long; no model on the hub has such a name")
    return key


def local_key(path: Path) -> str:
    """Return the folder name of a checkpoint on this disk: its name, and a hash of its place, sizes and times.

    So a checkpoint that has changed has another folder.
    """
    path = path.resolve()
    stem = PART.sub(r"\1\2", path.name).removesuffix(".gguf").removesuffix(".bin")
    digest = hashlib.sha256(str(path.with_name(PART.sub(r"\1\2", path.name))).encode())
    for file in _files_of(path):
        status = file.stat()
        digest.update(f"\n{file.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    name = re.sub(r"[^\w.-]+", "_", stem, flags=re.ASCII).strip("._-")[:64].replace("--", "-_") or "model"
    return f"{name}-{digest.hexdigest()[:10]}"


def is_key(text: str) -> bool:
    """Return whether a text can be the name of a folder in the cache, and of nothing outside it."""
    return re.fullmatch(r"[\w@%.-]+", text, re.ASCII) is not None and not text.startswith(".")


def _hub_parts(text: str) -> dict[str, str | None]:
    """Return repository, file and revision of a hub name; each None if it has none, or is no such name."""
    match = HUB_ID.fullmatch(text)
    return match.groupdict() if match else dict.fromkeys(HUB_ID.groupindex)


def _files_of(path: Path) -> Iterator[Path]:
    """Yield the files that an export of a checkpoint may read: all of a directory; parts and tokenizers of a file."""
    if path.is_dir():
        yield from sorted(file for file in path.iterdir() if file.is_file())
        return
    part = PART.fullmatch(path.name)
    for file in sorted(path.parent.iterdir()):
        other = PART.fullmatch(file.name)
        same = part is not None and other is not None and (other[1], other[2]) == (part[1], part[2])
        if file.name == path.name or same or (file.is_file() and any(map(file.match, BESIDE))):
            yield file
