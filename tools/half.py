"""float16 weights. They are stored as float16 and computed with in float32: x86 has no float16 products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

PAGE = 4096


def to_half(name: str, array: np.ndarray, report: Callable[[str], None]) -> np.ndarray:
    """Return an array as float16, or as float32 where values would overflow, which is reported by the tensor's name."""
    if array.dtype == np.float16:
        return array
    wide = array.astype(np.float32, copy=False)
    with np.errstate(over="ignore"):
        half = wide.astype(np.float16)
    overflowing = int(np.count_nonzero(np.isinf(half) & np.isfinite(wide)))
    if not overflowing:
        return half
    largest = float(np.abs(wide).max())
    report(f"{name}: {overflowing} values beyond float16 (largest {largest:.4g}); kept in float32")
    return wide


def embedding_bytes(table: np.ndarray, context_length: int) -> int:
    """Bytes an embedding [vocab, hidden] takes when loaded: only the rows of tokens that occur are paged in."""
    row = -(-table.nbytes // len(table) // PAGE) * PAGE
    return min(table.nbytes, row * context_length)
