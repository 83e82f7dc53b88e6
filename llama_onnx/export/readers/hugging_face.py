"""Hugging Face directories: `config.json`, and weights in one file or several with an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import ModelDirectoryError
from ..nbits import NBits
from .json_files import read_json

# Everything that belongs beside the shards: what the runtime and its users look for in a model directory.
AUXILIARY = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class TensorFile(Protocol):
    """One file with tensors by name."""

    def names(self) -> frozenset[str]:
        """Return the names of the tensors in this file."""

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in the type it is stored in."""


class HuggingFaceCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, directory: Path, weights: str, open_file: Callable[[Path], TensorFile]) -> None:
        """Open a directory.

        Args:
            directory: with `config.json` and the weights.
            weights: name of the file when there is one; with `.index.json` after it, of the index of several.
            open_file: reads the header of one file.

        Raises:
            ModelDirectoryError: a file is missing or damaged, or index and files disagree.
        """
        self.config: dict[str, Any] = read_json(directory / "config.json")
        self.files: dict[str, Path | bytes] = {
            name: directory / name for name in AUXILIARY if (directory / name).is_file()
        }
        self._directory = directory
        self._file_of = _open_files(directory, weights, open_file)
        self.source = [directory / "config.json", *sorted({path for path, _ in self._file_of.values()})]

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._file_of)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in the type it is stored in."""
        if name not in self._file_of:
            raise ModelDirectoryError(f"{self._directory}: the checkpoint has no tensor {name}")
        return self._file_of[name][1].tensor(name)

    def quantized(self, name: str) -> NBits | None:
        """Return None: what is here is not in blocks."""
        return None


def _open_files(
    directory: Path, weights: str, open_file: Callable[[Path], TensorFile]
) -> dict[str, tuple[Path, TensorFile]]:
    """Return path and file of each tensor."""
    index = directory / f"{weights}.index.json"
    if not index.is_file():
        path = directory / weights
        file = open_file(path)
        return dict.fromkeys(file.names(), (path, file))
    file_of = read_json(index).get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise ModelDirectoryError(f"{index}: has no weight_map; download it again")
    opened: dict[str, tuple[Path, TensorFile]] = {}
    for name, file_name in file_of.items():
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise ModelDirectoryError(f"{index}: {file_name!r} is not the name of a file beside it; download it again")
        if file_name not in opened:
            path = directory / file_name
            if not path.is_file():
                raise ModelDirectoryError(f"{path}: missing, though {index.name} lists it; download it")
            opened[file_name] = path, open_file(path)
        if name not in opened[file_name][1].names():
            raise ModelDirectoryError(
                f"{directory / file_name}: lacks {name}, which {index.name} places there; download both again"
            )
    return {name: opened[file_name] for name, file_name in file_of.items()}
