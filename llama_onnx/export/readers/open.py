"""Opens a checkpoint with the reader of its format."""

from __future__ import annotations

from pathlib import Path

from ...errors import ModelDirectoryError
from ...model_directory import MANIFEST
from ..checkpoint import Checkpoint
from .gguf import GgufCheckpoint
from .gguf_parts import is_later_part
from .hugging_face import HuggingFaceCheckpoint
from .int4 import PackedCheckpoint, is_packed
from .llama2c import Llama2cCheckpoint
from .meta import MetaCheckpoint
from .model_directory import ModelDirectoryCheckpoint
from .safetensors import SafetensorsFile
from .torch_file import TorchFile


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint in any supported format.

    Args:
        path: a Hugging Face or Meta directory, a model directory of this project, or a GGUF or llama2.c file.

    Raises:
        ModelDirectoryError: there is no checkpoint, or it cannot be read.
        MissingDependencyError: a needed optional package is not installed.
    """
    checkpoint = _open(path)
    return PackedCheckpoint(checkpoint) if is_packed(checkpoint.config) else checkpoint


def _open(path: str | Path) -> Checkpoint:
    path = Path(path)
    if path.is_dir():
        return _open_directory(path)
    if path.exists():
        return _open_file(path)
    raise ModelDirectoryError(f"{path}: no such file or directory; give a checkpoint")


def _open_directory(directory: Path) -> Checkpoint:
    if (directory / MANIFEST).is_file():
        return ModelDirectoryCheckpoint(directory)
    for weights in ("model.safetensors", "pytorch_model.bin"):
        if (directory / weights).is_file() or (directory / f"{weights}.index.json").is_file():
            return HuggingFaceCheckpoint(
                directory, weights, SafetensorsFile if weights == "model.safetensors" else TorchFile
            )
    if (directory / "params.json").is_file():
        return MetaCheckpoint(directory)
    files = sorted(path for path in directory.glob("*.gguf") if not is_later_part(path))
    if len(files) == 1:
        return _open_file(files[0])
    if files:
        raise ModelDirectoryError(f"{directory}: holds {len(files)} GGUF files; name one, such as {files[0].name}")
    raise ModelDirectoryError(
        f"{directory}: no model.safetensors, pytorch_model.bin, consolidated.00.pth with params.json or *.gguf in it"
    )


def _open_file(path: Path) -> Checkpoint:
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
        raise ModelDirectoryError(f"{path}: only a part of a checkpoint; give the directory it is in")
    raise ModelDirectoryError(f"{path}: not a checkpoint; give a directory, or a GGUF or llama2.c file")
