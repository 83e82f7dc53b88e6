"""One BLAS thread while quantising."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Make numpy's OpenBLAS compute in the calling thread, because the quantisers use their own threads.

    Two sets of threads would wait for each other, and the rounding would depend on their number. If numpy uses another
    BLAS, nothing changes.
    """
    packages = Path(np.__file__).parents[1]
    libraries = [*packages.glob("numpy.libs/*openblas*"), *packages.glob("numpy/.dylibs/*openblas*")]
    before: list[tuple[Any, int]] = []
    for library in map(ctypes.CDLL, map(str, libraries)):
        for prefix, suffix in (("scipy_openblas", "64_"), ("openblas", "64_"), ("openblas", "")):
            if hasattr(library, f"{prefix}_set_num_threads{suffix}"):
                number = getattr(library, f"{prefix}_get_num_threads{suffix}")()
                before.append((getattr(library, f"{prefix}_set_num_threads{suffix}"), number))
                break
    try:
        for set_threads, _ in before:
            set_threads(1)
        yield
    finally:
        for set_threads, number in before:
            set_threads(number)
