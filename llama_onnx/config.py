"""Reads and checks a model directory: the manifest becomes a frozen `ModelConfig` that the runtime trusts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelDirectoryError

MANIFEST = "manifest.json"
ASIDE = ".{}.replaced"  # where a model waits while its successor takes its place
FORMAT = "llama_onnx"
FORMAT_VERSION = 1
TEMPLATES = ("plain", "alpaca", "chat")


@dataclass(frozen=True)
class Shard:
    """One ONNX file and the weight files beside it.

    `loaded_bytes` is what its weights take in memory, `file_bytes` on disk (without files of other shards);
    `data_files` may be shared between shards (rope tables, tied embeddings); `quantized` tells that it has
    block-quantised matrices, which must be packed when they are loaded; `copied` that its weights lie inside the ONNX
    file, out of which they are copied; shards of one `kind` have the same graph and shapes; `digest` identifies the
    contents.
    """

    name: str
    path: Path
    data_files: tuple[str, ...]
    loaded_bytes: int
    file_bytes: int = 0
    quantized: bool = False
    copied: bool = False
    kind: str = ""
    digest: str = ""

    @property
    def mapped_bytes(self) -> int:
        """Bytes it takes when its float weights stay as they are in the file; packed ones as loaded."""
        return (
            self.loaded_bytes
            if self.quantized
            else min(self.loaded_bytes, max(self.file_bytes, self.loaded_bytes // 2))
        )

    @property
    def loading_bytes(self) -> int:
        """Bytes that are needed besides while it is being loaded: its file, unless the weights stay mapped from it."""
        mapped = self.loaded_bytes <= self.file_bytes and not self.quantized and not self.copied
        return 0 if mapped else self.file_bytes

    @property
    def casting_bytes(self) -> int:
        """Bytes a run needs to turn mapped float16 weights into float32, at the most."""
        return self.loaded_bytes - self.mapped_bytes


@dataclass(frozen=True)
class ModelConfig:
    """What the runtime knows about a model. Sizes are counts of elements."""

    directory: Path
    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool
    weights: str
    embed: Shard
    layers: tuple[Shard, ...]
    head: Shard
    rope_switch_length: int | None = None  # longer sequences turn by other rope factors, from the start (LongRoPE)
    template: str | None = None  # of prompts, where the model was trained on one that is built in
    norm: Shard | None = None  # the final norm, in the layout of the original llama.onnx, where the head has none

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards in the order a step runs them."""
        return (self.embed, *self.layers, *([self.norm] if self.norm else []), self.head)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes the float32 keys and values of one token take in all layers."""
        return 2 * 4 * self.num_layers * self.num_kv_heads * self.head_dim


def read_config(directory: str | Path) -> ModelConfig:
    """Read `manifest.json` of a model directory and check that every file it lists is there in full size.

    The one kind of directory that has no manifest is that of the original llama.onnx; see `legacy.py`.

    Raises:
        ModelDirectoryError: not a model directory, an unreadable or wrong manifest, a missing or truncated file.
    """
    directory = Path(directory)
    if not (directory / MANIFEST).exists():
        from .original.layout import is_legacy, read_legacy_config  # which builds on this module

        if is_legacy(directory):
            return read_legacy_config(directory)
    manifest = read_manifest(directory)
    _check_files(directory, _field(manifest, "files", dict))
    model = _field(manifest, "model", dict)
    number: dict[str, Any] = {
        name: _count(model, name)
        for name in (
            "hidden_size num_layers num_heads num_kv_heads head_dim intermediate_size vocab_size context_length"
        ).split()
    }
    shards = {shard.name: shard for shard in (_shard(directory, manifest, s) for s in _field(manifest, "shards", list))}
    wanted = ["embed", *(f"decoder-{i:02d}" for i in range(number["num_layers"])), "head"]
    if sorted(shards) != sorted(wanted):
        odd = sorted(set(shards) ^ set(wanted))
        raise ModelDirectoryError(
            f"{directory / MANIFEST}: {number['num_layers']} layers do not match the shards listed "
            f"(look at {', '.join(odd[:3])}); export the model again"
        )
    eos = _field(model, "eos_token_ids", list)
    bos = model.get("bos_token_id")
    for token in [*eos, *([] if bos is None else [bos])]:
        if not isinstance(token, int) or not 0 <= token < number["vocab_size"]:
            raise ModelDirectoryError(f"{directory / MANIFEST}: special token id {token!r} is not in the vocabulary")
    template = model.get("template")
    if template not in (None, *TEMPLATES):
        raise ModelDirectoryError(f"{directory / MANIFEST}: template {str(template)[:40]!r} is not one of {TEMPLATES}")
    return ModelConfig(
        directory=directory,
        architecture=_field(manifest, "architecture", str),
        bos_token_id=bos,
        eos_token_ids=tuple(eos),
        add_bos=_field(model, "add_bos", bool),
        weights=_field(_field(manifest, "precision", dict), "weights", str),
        embed=shards["embed"],
        layers=tuple(shards[name] for name in wanted[1:-1]),
        head=shards["head"],
        rope_switch_length=_count(model, "rope_switch_length") if "rope_switch_length" in model else None,
        template=template,
        **number,
    )


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a model directory, known to be of our format, its fields yet to be checked.

    Raises:
        ModelDirectoryError: there is none, or it cannot be read.
    """
    path = directory / MANIFEST
    aside = directory.with_name(ASIDE.format(directory.name))
    if aside.is_dir() and not directory.exists():
        raise ModelDirectoryError(
            f"{directory}: was being replaced when that was interrupted; the model that was there is {aside}: "
            "rename it back, or run the same export again"
        )
    if not directory.is_dir():
        raise ModelDirectoryError(f"{directory}: no such directory; give one made by tools/export_onnx.py")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelDirectoryError(
            f"{directory}: not a model directory, or an export that did not finish (no {MANIFEST}); "
            "make one with tools/export_onnx.py"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); export the model again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelDirectoryError(f"{path}: not a {FORMAT} manifest; export the model again")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ModelDirectoryError(
            f"{path}: format version {manifest.get('format_version')!r}, this program reads version {FORMAT_VERSION}; "
            "export the model again, or use the program that made it"
        )
    return manifest


def _field(fields: dict[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "is missing" if value is None else f"is {str(value)[:40]!r}"
        raise ModelDirectoryError(f"{MANIFEST}: '{name}' {found}, a {kind.__name__} is needed; export the model again")
    return value


def _count(fields: dict[str, Any], name: str) -> int:
    value = _field(fields, name, int)
    if value < 1:
        raise ModelDirectoryError(f"{MANIFEST}: '{name}' is {value}, it must be at least 1; export the model again")
    return int(value)


def _check_files(directory: Path, files: dict[str, Any]) -> None:
    for name, entry in files.items():
        path = directory / name
        size = _field(entry if isinstance(entry, dict) else {}, "bytes", int)
        if not _is_plain_name(name):
            raise ModelDirectoryError(f"{directory / MANIFEST}: file name {name!r} points outside the directory")
        if not path.is_file():
            raise ModelDirectoryError(f"{path}: missing, though the manifest lists it; copy or export the model again")
        if path.stat().st_size != size:
            raise ModelDirectoryError(
                f"{path}: {path.stat().st_size} bytes where the manifest says {size}: truncated or replaced; "
                "copy or export the model again"
            )


def _is_plain_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name


def _shard(directory: Path, manifest: dict[str, Any], entry: Any) -> Shard:
    entry = entry if isinstance(entry, dict) else {}
    name, file, data_files = _field(entry, "name", str), _field(entry, "file", str), _field(entry, "data_files", list)
    for needed in (file, *data_files):
        if needed not in manifest["files"]:
            raise ModelDirectoryError(f"{directory / MANIFEST}: shard {name} needs {needed!r}, which is not listed")
    return Shard(
        name=name,
        path=directory / file,
        data_files=tuple(data_files),
        loaded_bytes=_count(entry, "loaded_bytes"),
        file_bytes=_count(entry, "file_bytes"),
        quantized=_field(entry, "quantized", bool),
        kind=_field(entry, "kind", str),
        digest=" ".join(_field(manifest["files"][needed], "sha256", str) for needed in (file, *data_files)),
    )
