"""One safetensors file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError
from ..packages import ml_dtypes, safetensors
from .raw import read_array

# Types by their names in the format. Others (float8, 4 bits) have no numpy type.
DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32,
    "BOOL": np.bool_,
}  # fmt: skip


class SafetensorsFile:
    """The tensors of a file, each read on demand.

    The package checks the file, but the bytes are read directly: that is faster than through the package's mapping and
    leaves no mapped pages in this process. Format: https://huggingface.co/docs/safetensors/index#format
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                self._names = frozenset(file.keys())
            with path.open("rb") as header:
                size = int.from_bytes(header.read(8), "little")
                self._entries: dict[str, Any] = json.loads(header.read(size))
                self._data = 8 + size
        except FileNotFoundError:
            raise ModelDirectoryError(f"{path}: missing; download it, or the whole checkpoint again") from None
        except (safetensors.SafetensorError, OSError) as error:
            raise self._unreadable(error) from None

    def names(self) -> frozenset[str]:
        """Return the names of the tensors in this file."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._entries[name]["shape"])

    def tensor(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Return a tensor, or `rows` of a matrix, in its stored type."""
        entry = self._entries[name]
        if entry["dtype"] not in DTYPES:
            raise ModelDirectoryError(
                f"{self._path}: {name} is stored in a type that is not supported (such as float8); "
                "give a checkpoint in float32, float16 or bfloat16"
            )
        shape, dtype = self.shape(name), np.dtype(DTYPES[entry["dtype"]])
        start = self._data + entry["data_offsets"][0]
        if len(shape) == 2:
            first, last, _ = rows.indices(shape[0])
            start += first * shape[1] * dtype.itemsize
            shape = last - first, shape[1]
        return read_array(self._path, start, math.prod(shape), dtype).reshape(shape)

    def _unreadable(self, error: Exception) -> ModelDirectoryError:
        return ModelDirectoryError(f"{self._path}: cannot be read ({_first_line(error)}); download it again")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
