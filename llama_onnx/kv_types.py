"""How rows of keys and values are stored: float32 as attention reads them, float16, or int8 with a scale per row."""

from __future__ import annotations

import numpy as np

from .config import ModelConfig
from .errors import RequestError
from .memory import lazy_zeros

CACHE_TYPES = ("fp32", "fp16", "int8")
LARGEST_HALF = np.float32(np.finfo(np.float16).max)
LARGEST_CODE = np.float32(127)
SMALLEST_SCALE = np.finfo(np.float32).tiny  # a row of zeros is divided by this


def check_cache_type(config: ModelConfig, cache_type: str) -> None:
    """Raise RequestError unless a model can have a cache of this type."""
    if cache_type not in CACHE_TYPES:
        raise RequestError(f"cache type {cache_type!r} is not known; use one of: {', '.join(CACHE_TYPES)}")
    if config.norm is not None and cache_type != "fp32":
        raise RequestError(f"the original llama.onnx has its own kind of cache; leave out the cache type {cache_type}")


def stored_type(head_dim: int, cache_type: str) -> np.dtype:
    """Return the type of a stored row: the key or value of one head at one position."""
    if cache_type == "int8":
        return np.dtype([("codes", np.int8, (head_dim,)), ("scale", np.float32)])
    return np.dtype((np.float32 if cache_type == "fp32" else np.float16, (head_dim,)))


def zero_rows(shape: tuple[int, ...], row: np.dtype) -> np.ndarray:
    """Return an array of `shape` filled with zero rows; the row is its last axis unless the type has fields."""
    return lazy_zeros((*shape, *row.shape), row.base)


def expand(stored: np.ndarray, out: np.ndarray) -> None:
    """Convert stored rows [rows, kv_heads, positions] to float32 [rows, kv_heads, positions, head_dim]."""
    if stored.dtype.names:
        np.multiply(stored["codes"], stored["scale"][..., None], out=out)
        return
    # numpy converts halves to floats one by one, which is slow. Shifted into place, their bits are a float32 that is
    # 2^112 times too small (the exponent bias is 15 in a half, 127 in a float32). One head fits into the CPU's cache.
    for head in np.ndindex(stored.shape[:2]):
        bits = out[head].view(np.int32)
        np.left_shift(stored[head].view(np.int16), 13, out=bits, dtype=np.int32)
        np.bitwise_and(bits, ~(7 << 28), out=bits)  # the shift copied the sign into the three bits below it
        np.multiply(out[head], np.float32(2.0**112), out=out[head])


def compress(rows: np.ndarray, stored: np.ndarray) -> None:
    """Store float32 rows [rows, kv_heads, positions, head_dim]. This overwrites `rows`."""
    if not stored.dtype.names:
        stored[:] = np.clip(rows, -LARGEST_HALF, LARGEST_HALF, out=rows)
        return
    largest = np.maximum(rows.max(-1), -rows.min(-1))
    stored["scale"] = np.maximum(largest / LARGEST_CODE, SMALLEST_SCALE)
    rows /= stored["scale"][..., None]
    stored["codes"] = np.rint(rows, out=rows)
