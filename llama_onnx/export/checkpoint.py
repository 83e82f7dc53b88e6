"""The interface of every reader: tensors by their Hugging Face names, and the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .nbits import NBits

PART = 1 << 22  # values that a part of a table has


class Checkpoint(Protocol):
    """Weights, read one tensor at a time, and configuration.

    Attributes:
        config: the fields of the model's `config.json`.
        files: auxiliary files to put beside the shards (tokenizer, generation config …) by name: a path to copy, or
            bytes to write.
        source: the files that hold the weights; their names, sizes and times identify the checkpoint.
    """

    config: dict[str, Any]
    files: dict[str, Path | bytes]
    source: list[Path]

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type (float32, float16 or bfloat16); a quantised tensor as float32.

        Raises:
            ModelDirectoryError: there is no such tensor, or its file is damaged.
        """

    def parts(self, name: str) -> Iterator[np.ndarray]:
        """Yield `tensor(name)` as consecutive slices of its rows: large tables are never in memory as a whole.

        A reader that cannot read some rows alone yields the tensor itself.
        """

    def quantized(self, name: str) -> NBits | None:
        """Return the stored integers of a matrix [out, in]; None if it is stored in floats or in another layout.

        `nbits.dequantize` of the result equals `tensor(name)` bit for bit.

        Raises:
            ModelDirectoryError: there is no such tensor, or its file is damaged.
        """

    def stored_bits(self, name: str) -> int | None:
        """Return the bits of an integer of a quantised tensor; None if it is stored in floats.

        Raises:
            ModelDirectoryError: there is no such tensor.
        """


def row_slices(shape: Sequence[int]) -> list[slice]:
    """Return slices of the rows of a matrix with about `PART` values each; one of everything for another shape."""
    if len(shape) != 2:
        return [slice(None)]
    step = max(1, PART // max(shape[1], 1))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
