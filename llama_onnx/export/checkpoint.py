"""What every reader gives: the tensors of a model by their Hugging Face names, and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .nbits import NBits


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
