"""Hugging Face directories with `model.safetensors`, in one file or several with an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs to hand it out
import numpy as np
from safetensors import SafetensorError, safe_open

from llama_onnx.errors import ModelDirectoryError

from . import read_json

AUXILIARY = ("config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")


class SafetensorsCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise ModelDirectoryError(f"{directory}: no such directory; give a Hugging Face checkpoint")
        self.config: dict[str, Any] = read_json(directory / "config.json")
        self.files = [directory / name for name in AUXILIARY if (directory / name).is_file()]
        self._directory = directory
        self._file_of = self._read_index()
        self.source = [directory / "config.json", *(directory / name for name in sorted(set(self._file_of.values())))]

    def names(self) -> frozenset[str]:
        """Return the names of all tensors."""
        return frozenset(self._file_of)

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in the type it is stored in."""
        if name not in self._file_of:
            raise ModelDirectoryError(f"{self._directory}: the checkpoint has no tensor {name}")
        path = self._directory / self._file_of[name]
        try:
            # Opened for each tensor: a mapping kept open would keep every page read so far in memory.
            with safe_open(path, framework="numpy") as file:
                return np.asarray(file.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise ModelDirectoryError(f"{path}: cannot be read ({error}); download it again") from None

    def _read_index(self) -> dict[str, str]:
        index, single = self._directory / "model.safetensors.index.json", self._directory / "model.safetensors"
        if index.is_file():
            file_of = read_json(index).get("weight_map")
            if not isinstance(file_of, dict) or not file_of:
                raise ModelDirectoryError(f"{index}: has no weight_map; download it again")
            for file in sorted(set(file_of.values())):
                _keys(self._directory / file)
            return file_of
        if single.is_file():
            return dict.fromkeys(_keys(single), single.name)
        raise ModelDirectoryError(f"{self._directory}: no model.safetensors and no model.safetensors.index.json in it")


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); download it again") from None
