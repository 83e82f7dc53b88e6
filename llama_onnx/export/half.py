"""16-bit weights. They are stored as float16 and widened to float32 to compute: x86 has no float16 products."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

ROUNDS_TO_INFINITY = 65520  # the smallest number that is closer to 2^16 than to the largest float16
WIDENED_AT_ONCE = 1 << 16  # values: few enough to stay in the processor's cache


def to_half(name: str, array: np.ndarray, report: Callable[[str], None]) -> np.ndarray:
    """Return an array as float16, or as float32 if values would overflow, which is reported with the tensor's name."""
    if array.dtype == np.float16:
        return array
    wide = widen(array)
    return wide if not fits_half(name, [wide], report) else narrow(wide)


def fits_half(name: str, parts: Iterable[np.ndarray], report: Callable[[str], None]) -> bool:
    """Return whether float16 can hold all values of a tensor, given in parts; if not, report it with its name."""
    overflowing, largest = 0, np.float32(0)
    for part in parts:
        if part.dtype == np.float16:
            return True
        size = np.abs(widen(part))
        overflowing += int(np.count_nonzero((size >= ROUNDS_TO_INFINITY) & np.isfinite(size)))
        largest = np.maximum(largest, size.max(initial=0))
    if overflowing:
        report(f"{name}: {overflowing} values beyond float16 (largest {float(largest):.4g}); kept in float32")
    return not overflowing


def narrow(array: np.ndarray) -> np.ndarray:
    """Return an array of floats as float16."""
    if array.dtype == np.float16:
        return array
    with np.errstate(over="ignore"):
        return widen(array).astype(np.float16)


def widen(array: np.ndarray) -> np.ndarray:
    """Return an array of floats as float32. Exact, and several times as fast as `astype` for 16-bit types."""
    if array.dtype.name not in ("float16", "bfloat16"):
        return array.astype(np.float32, copy=False)
    wide = np.empty(array.shape, np.float32)
    source, target = np.ascontiguousarray(array).reshape(-1), wide.reshape(-1)
    convert = _widen_half if array.dtype == np.float16 else _widen_bfloat16
    for start in range(0, source.size, WIDENED_AT_ONCE):
        part = slice(start, start + WIDENED_AT_ONCE)
        convert(source[part], target[part])
    return wide


def _widen_half(source: np.ndarray, target: np.ndarray) -> None:
    bits = target.view(np.int32)
    np.left_shift(source.view(np.int16), 13, out=bits, dtype=np.int32)  # widening to 32 bits extends the sign
    bits &= ~(0x7 << 28)
    target *= np.float32(2.0**112)  # the exponent bias is 15 in float16, 127 in float32
    if max(target.max(), -target.min()) >= 65536:  # infinities and NaNs have a special exponent
        target[:] = source


def _widen_bfloat16(source: np.ndarray, target: np.ndarray) -> None:
    np.left_shift(source.view(np.uint16), 16, out=target.view(np.uint32), dtype=np.uint32)
