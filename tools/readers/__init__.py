"""Readers of checkpoints: whatever the format, a `Checkpoint` gives tensors by their Hugging Face names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llama_onnx.errors import ModelDirectoryError


class Checkpoint(Protocol):
    """Weights and configuration, one tensor at a time.

    Attributes:
        config: the model's `config.json`.
        files: auxiliary files to copy beside the shards (tokenizer, generation config …).
        source: files the weights come from; their names, sizes and times identify the checkpoint.
    """

    config: dict[str, Any]
    files: list[Path]
    source: list[Path]

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in the type it is stored in (float32, float16 or bfloat16).

        Raises:
            ModelDirectoryError: there is none of this name, or its file is damaged.
        """


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint in any format that is known here.

    Raises:
        ModelDirectoryError: nothing there, or nothing that can be read.
    """
    from .safetensors import SafetensorsCheckpoint

    return SafetensorsCheckpoint(Path(path))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelDirectoryError: the file is missing or not a JSON object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path}: missing; is this a Hugging Face checkpoint?") from None
    except (OSError, ValueError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); download it again") from None
    if not isinstance(fields, dict):
        raise ModelDirectoryError(f"{path}: not a JSON object; download it again")
    return fields
