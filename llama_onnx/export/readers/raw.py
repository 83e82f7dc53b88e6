"""Checked reads, for formats that are read byte by byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ModelDirectoryError

DAMAGED = "truncated or damaged; download it again"


def read_array(path: Path, offset: int, count: int, dtype: Any) -> np.ndarray:
    """Read `count` values at a byte offset.

    Raises:
        ModelDirectoryError: the file is too short, or cannot be read.
    """
    dtype = np.dtype(dtype)
    try:
        if offset < 0 or count < 0 or offset + count * dtype.itemsize > path.stat().st_size:
            raise ModelDirectoryError(f"{path}: ends before the end of a tensor: {DAMAGED}")
        # As bytes, because numpy cannot read the types of ml_dtypes from files.
        data = np.fromfile(path, np.uint8, count * dtype.itemsize, offset=offset)
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None
    if data.size != count * dtype.itemsize:
        raise ModelDirectoryError(f"{path}: ends before the end of a tensor: {DAMAGED}")
    return data.view(dtype)


def check_sizes(path: Path, sizes: dict[str, Any]) -> None:
    """Raise ModelDirectoryError unless every size is a whole number from 1 to 2³¹ - 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 1 << 31:
            raise ModelDirectoryError(f"{path}: {name} is {size!r}, but must be a number above 0; the file is damaged")
