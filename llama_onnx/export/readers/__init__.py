"""Readers of checkpoints: whatever the format, a `Checkpoint` gives tensors by their Hugging Face names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import ModelDirectoryError
from ...model_directory import MANIFEST
from ..nbits import NBits


class Checkpoint(Protocol):
    """Weights and configuration, one tensor at a time.

    Attributes:
        config: the model's `config.json`.
        files: auxiliary files to put beside the shards (tokenizer, generation config …) by name: a file to copy, or
            the content of one to write.
        source: files the weights come from; their names, sizes and times identify the checkpoint.
    """

    config: dict[str, Any]
    files: dict[str, Path | bytes]
    source: list[Path]

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in the type it is stored in (float32, float16 or bfloat16); a quantised one in float32.

        Raises:
            ModelDirectoryError: there is none of this name, or its file is damaged.
        """

    def quantized(self, name: str) -> NBits | None:
        """Return a matrix [out, in] as the file holds it, in integers; None where it holds floats or other layouts.

        `nbits.dequantize` of it equals `tensor(name)` bit for bit.

        Raises:
            ModelDirectoryError: there is none of this name, or its file is damaged.
        """


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint in any format that is known here.

    Args:
        path: a Hugging Face or Meta directory, a model directory of this project, a GGUF or llama2.c file, or, if
            nothing of that name exists, a model on the Hugging Face hub: `organisation/name` or
            `organisation/name@revision`.

    Raises:
        ModelDirectoryError: nothing there, or nothing that can be read.
        MissingDependencyError: an optional package is needed and not installed.
    """
    from .int4 import PackedCheckpoint, is_packed

    checkpoint = _open(path)
    return PackedCheckpoint(checkpoint) if is_packed(checkpoint.config) else checkpoint


def _open(path: str | Path) -> Checkpoint:
    name, path = str(path), Path(path)
    if path.is_dir():
        return _open_directory(path)
    if path.exists():
        return _open_file(path)
    from .hub import download, is_hub_id

    if is_hub_id(name):
        return _open_directory(download(name))
    raise ModelDirectoryError(
        f"{path}: no such file or directory; give a checkpoint, or organisation/name of one on the Hugging Face hub"
    )


def _open_directory(directory: Path) -> Checkpoint:
    from .hugging_face import HuggingFaceCheckpoint
    from .safetensors import SafetensorsFile
    from .torch_file import TorchFile

    if (directory / MANIFEST).is_file():
        from .model_directory import ModelDirectoryCheckpoint

        return ModelDirectoryCheckpoint(directory)
    for weights in ("model.safetensors", "pytorch_model.bin"):
        if (directory / weights).is_file() or (directory / f"{weights}.index.json").is_file():
            return HuggingFaceCheckpoint(
                directory, weights, SafetensorsFile if weights == "model.safetensors" else TorchFile
            )
    if (directory / "params.json").is_file():
        from .meta import MetaCheckpoint

        return MetaCheckpoint(directory)
    files = sorted(directory.glob("*.gguf"))
    if len(files) == 1:
        return _open_file(files[0])
    if files:
        raise ModelDirectoryError(f"{directory}: holds {len(files)} GGUF files; name one, such as {files[0].name}")
    raise ModelDirectoryError(
        f"{directory}: no model.safetensors, pytorch_model.bin, consolidated.00.pth with params.json or *.gguf in it"
    )


def _open_file(path: Path) -> Checkpoint:
    from .gguf import GgufCheckpoint
    from .llama2c import Llama2cCheckpoint

    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None
    if start == b"GGUF" or path.suffix == ".gguf":
        return GgufCheckpoint(path)
    if path.suffix == ".bin" and not start.startswith((b"PK", b"\x80")):
        return Llama2cCheckpoint(path)
    if path.suffix in (".safetensors", ".bin", ".pth", ".pt", ".json"):
        raise ModelDirectoryError(f"{path}: a part of a checkpoint; give the directory it lies in")
    raise ModelDirectoryError(f"{path}: not a checkpoint; give a directory, or a GGUF or llama2.c file")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelDirectoryError: the file is missing or not a JSON object.
    """
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path}: missing; is this a Hugging Face checkpoint?") from None
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None


def auxiliary_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Return an auxiliary file of a checkpoint that is a JSON object, {} if there is none of that name.

    Raises:
        ModelDirectoryError: the file is not a JSON object.
    """
    content = checkpoint.files.get(name)
    if content is None:
        return {}
    return read_json(content) if isinstance(content, Path) else _parse(content, name)


def write_json(fields: dict[str, Any]) -> bytes:
    """Return a JSON file for `Checkpoint.files`, such as the config.json a format does not have."""
    return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode()


def _parse(content: bytes, where: str | Path) -> dict[str, Any]:
    try:
        fields = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ModelDirectoryError(f"{where}: cannot be read ({error}); download it again") from None
    if not isinstance(fields, dict):
        raise ModelDirectoryError(f"{where}: not a JSON object; download it again")
    return fields
