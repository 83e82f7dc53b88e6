"""Reads and checks a model directory, and returns the `ModelConfig` that the runtime relies on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from .config import CAPABILITIES, TEMPLATES, ModelConfig, Shard
from .errors import ModelDirectoryError
from .files.mapped import charge_of_lookups
from .original.layout import is_legacy, read_legacy_config

MANIFEST = "manifest.json"
ASIDE = ".{}.replaced"  # the name of an old model while a new one replaces it
FORMAT, FORMAT_VERSION = "llama_onnx", 1
COUNTS = "hidden_size num_layers num_heads num_kv_heads head_dim intermediate_size vocab_size context_length".split()
OPTIONAL = {"rope_switch_length"}  # counts that only some models have
SOFT_CAPPED = {"gemma2": (1, 2)}  # `ModelConfig.copies` of architectures with a soft cap, in the fused kernel
STANDARD_COPIES = 3, 2  # the same of standard operators, which copy keys and values too; see `pass_bytes`


def read_config(directory: str | Path) -> ModelConfig:
    """Read `manifest.json` of a model directory and check that every file it lists exists and has the right size.

    A directory of the original llama.onnx has no manifest; see `original/`. Any fault raises a ModelDirectoryError.
    """
    directory = Path(directory)
    if not (directory / MANIFEST).exists() and is_legacy(directory):
        return read_legacy_config(directory)
    manifest = read_manifest(directory)
    _check_files(directory, _field(manifest, "files", dict))
    model, precision = (_field(manifest, name, dict) for name in ("model", "precision"))
    architecture = _field(manifest, "architecture", str)
    counts: dict[str, Any] = {name: _count(model, name) for name in (*COUNTS, *(OPTIONAL & model.keys()))}
    shards = {shard.name: shard for shard in (_shard(directory, manifest, s) for s in _field(manifest, "shards", list))}
    wanted = ["embed", *(f"decoder-{i:02d}" for i in range(counts["num_layers"])), "head"]
    if odd := sorted(set(shards) ^ set(wanted)):
        _refuse(directory / MANIFEST, f"{counts['num_layers']} layers do not match the listed shards (see {odd[0]})")
    bos, eos, template = model.get("bos_token_id"), _field(model, "eos_token_ids", list), model.get("template")
    for token in eos if bos is None else [*eos, bos]:
        if type(token) is not int or not 0 <= token < counts["vocab_size"]:
            _refuse(directory / MANIFEST, f"special token id {token!r} is not in the vocabulary")
    if template not in (None, *TEMPLATES):
        _refuse(directory / MANIFEST, f"template {str(template)[:40]!r} is not one of {TEMPLATES}")
    for name in _field({"capabilities": [], **manifest}, "capabilities", list):
        if name not in CAPABILITIES:
            _refuse(directory / MANIFEST, f"capability {str(name)[:40]!r} is not known", "use the program that made it")
    copies = STANDARD_COPIES if precision.get("ops") == "onnx" else SOFT_CAPPED.get(architecture, (0, 1))
    return ModelConfig(
        directory=directory, architecture=architecture, bos_token_id=bos, eos_token_ids=tuple(eos), template=template,
        add_bos=_field(model, "add_bos", bool), weights=_field(precision, "weights", str), embed=shards["embed"],
        layers=tuple(shards[name] for name in wanted[1:-1]), head=shards["head"], copies=copies, **counts,
    )  # fmt: skip


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a model directory. Its format and version are checked, its fields are not."""
    path, aside = directory / MANIFEST, directory.with_name(ASIDE.format(directory.name))
    if aside.is_dir() and not directory.exists():
        what = f"an export was interrupted while it replaced this model; the old one is {aside}: rename it back"
        _refuse(directory, what, "or run the same export again")
    if not directory.is_dir():
        _refuse(directory, "no such directory", "give one made by llama-onnx export")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(directory, f"not a model directory, or an export that did not finish (no {MANIFEST})",
                "make one with llama-onnx export")  # fmt: skip
    except (OSError, ValueError) as error:
        _refuse(path, f"cannot be read ({error})")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        _refuse(path, f"not a {FORMAT} manifest")
    if (version := manifest.get("format_version")) != FORMAT_VERSION:
        _refuse(path, f"format version {version!r}, this program reads version {FORMAT_VERSION}",
                "export the model again, or use the program that made it")  # fmt: skip
    return manifest


def _refuse(where: str | Path, what: str, advice: str = "copy or export the model again") -> NoReturn:
    raise ModelDirectoryError(f"{where}: {what}; {advice}") from None


def _field(fields: dict[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "is missing" if value is None else f"is {str(value)[:40]!r}"
        _refuse(MANIFEST, f"'{name}' {found}, a {kind.__name__} is needed")
    return value


def _count(fields: dict[str, Any], name: str) -> int:
    if (value := int(_field(fields, name, int))) < 1:
        _refuse(MANIFEST, f"'{name}' is {value}, it must be at least 1")
    return value


def _check_files(directory: Path, files: dict[str, Any]) -> None:
    for name, entry in files.items():
        path, size = directory / name, _field(entry if isinstance(entry, dict) else {}, "bytes", int)
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            _refuse(directory / MANIFEST, f"file name {name!r} points outside the directory")
        if not path.is_file():
            _refuse(path, "missing, though the manifest lists it")
        if (found := path.stat().st_size) != size:
            _refuse(path, f"{found} bytes where the manifest says {size}: truncated or replaced")


def _shard(directory: Path, manifest: dict[str, Any], entry: Any) -> Shard:
    entry, listed = entry if isinstance(entry, dict) else {}, manifest["files"]
    name, file, data_files = _field(entry, "name", str), _field(entry, "file", str), _field(entry, "data_files", list)
    for needed in (file, *data_files):
        if not isinstance(needed, str) or needed not in listed:
            _refuse(directory / MANIFEST, f"shard {name} needs {needed!r}, which is not listed")
    digest = " ".join(_field(listed[needed], "sha256", str) for needed in (file, *data_files))
    loaded, stored = _count(entry, "loaded_bytes"), _count(entry, "file_bytes")
    loaded = charge_of_lookups(loaded, stored, manifest["model"]["vocab_size"]) if name == "embed" else loaded
    quantized, kind = _field(entry, "quantized", bool), _field(entry, "kind", str)
    return Shard(name, directory / file, tuple(data_files), loaded, stored, quantized, kind=kind, digest=digest)
