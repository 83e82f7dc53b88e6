"""One safetensors file."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs to hand it out
import numpy as np
from safetensors import SafetensorError, safe_open

from llama_onnx.errors import ModelDirectoryError


class SafetensorsFile:
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="numpy") as file:
                self._names = frozenset(file.keys())
        except FileNotFoundError:
            raise ModelDirectoryError(f"{path}: missing; download it, or the whole checkpoint again") from None
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from None

    def names(self) -> frozenset[str]:
        """Return the names of the tensors in this file."""
        return self._names

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor in the type it is stored in."""
        try:
            # Opened for each tensor: a mapping kept open would keep every page read so far in memory.
            with safe_open(self._path, framework="numpy") as file:
                return np.asarray(file.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise self._unreadable(error) from None
        except (TypeError, KeyError, AttributeError):  # what numpy has no type for
            raise ModelDirectoryError(
                f"{self._path}: {name} is stored in a type that is not read here (such as float8); "
                "give a checkpoint in float32, float16 or bfloat16"
            ) from None

    def _unreadable(self, error: Exception) -> ModelDirectoryError:
        return ModelDirectoryError(f"{self._path}: cannot be read ({_first_line(error)}); download it again")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
