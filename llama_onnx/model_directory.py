"""Reads and checks a model directory: its manifest becomes the `ModelConfig` that the runtime trusts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .config import TEMPLATES, ModelConfig, Shard
from .errors import ModelDirectoryError
from .original.layout import is_legacy, read_legacy_config

MANIFEST = "manifest.json"
ASIDE = ".{}.replaced"  # where a model waits while its successor takes its place
FORMAT = "llama_onnx"
FORMAT_VERSION = 1
SOFT_CAPPED = ("gemma2",)  # architectures whose attention scores the fused kernel has to write out, for a soft cap
STANDARD_SCORES = 3  # copies of the scores that standard operators make


def read_config(directory: str | Path) -> ModelConfig:
    """Read `manifest.json` of a model directory and check that every file it lists is there in full size.

    The one kind of directory that has no manifest is that of the original llama.onnx; see `original/`.

    Raises:
        ModelDirectoryError: not a model directory, an unreadable or wrong manifest, a missing or truncated file.
    """
    directory = Path(directory)
    if not (directory / MANIFEST).exists() and is_legacy(directory):
        return read_legacy_config(directory)
    manifest = read_manifest(directory)
    _check_files(directory, _field(manifest, "files", dict))
    model, precision = (_field(manifest, name, dict) for name in ("model", "precision"))
    architecture = _field(manifest, "architecture", str)
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
        architecture=architecture,
        bos_token_id=bos,
        eos_token_ids=tuple(eos),
        add_bos=_field(model, "add_bos", bool),
        weights=_field(precision, "weights", str),
        embed=shards["embed"],
        layers=tuple(shards[name] for name in wanted[1:-1]),
        head=shards["head"],
        rope_switch_length=_count(model, "rope_switch_length") if "rope_switch_length" in model else None,
        template=template,
        score_copies=STANDARD_SCORES if precision.get("ops") == "onnx" else int(architecture in SOFT_CAPPED),
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
