"""What the methods share: a `Format`, rounding with given scales and zero points, packing, and threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ...nbits import NBits, check_format, narrowed, pack_bits, storable, to_blocks

IN_CACHE = 1 << 16  # weights: a few arrays of this size fit into a core's cache, which is several times as fast
T = TypeVar("T")


@dataclass(frozen=True)
class Format:
    """The format of a quantised matrix.

    Attributes:
        bits: of a weight: 2, 4 or 8.
        block_size: how many weights along the inputs share a scale.
        zero_point: whether each block has its own zero point; otherwise it is the middle, 2^(bits - 1).
        minima: whether zero points need not be whole: then they are stored as minima, zero point · scale, in floats.
    """

    bits: int = 4
    block_size: int = 128
    zero_point: bool = False
    minima: bool = False

    def __post_init__(self) -> None:
        check_format(self.bits, self.block_size)

    @property
    def highest(self) -> int:
        """The highest integer; the lowest is 0."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The integer that stands for 0 if there are no zero points."""
        return 1 << (self.bits - 1)


def integers(blocks: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format) -> np.ndarray:
    """Return float32 whole numbers clip(round(w / s) + z, 0, 2^bits - 1), or clip(round(w / s + z), …) with minima.

    Args:
        blocks: float32 [..., block_size].
        scales, zeros: float32 [...].
        form: of the result.
    """
    if form.minima:
        values = blocks / scales[..., None]
        values += zeros[..., None]
        np.rint(values, out=values)
        return np.clip(values, 0, form.highest, out=values)
    values = centred(blocks, scales, zeros, form)
    values += zeros[..., None]
    return values


def centred(blocks: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format) -> np.ndarray:
    """Return float32 clip(round(w / s), -z, 2^bits - 1 - z): `integers` minus their zero points."""
    if form.minima:
        return integers(blocks, scales, zeros, form) - zeros[..., None]
    values = blocks / scales[..., None]
    np.rint(values, out=values)
    if form.zero_point:
        return np.clip(values, -zeros[..., None], form.highest - zeros[..., None], out=values)
    return np.clip(values, -form.middle, form.highest - form.middle, out=values)


def rounded(blocks: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format) -> np.ndarray:
    """Return the dequantised values of the blocks, float32 of the same shape."""
    values = centred(blocks, scales, zeros, form)
    values *= scales[..., None]
    return values


def pack(values: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format, columns: int) -> NBits:
    """Pack whole numbers [out, blocks, block_size] with scales and zero points [out, blocks]."""
    packed, scales = pack_bits(values.astype(np.uint8), form.bits), np.ascontiguousarray(scales, np.float32)
    if form.minima:
        return NBits(packed, narrowed(scales), None, form.bits, columns, narrowed(storable(zeros * scales)))
    points = pack_bits(zeros.astype(np.uint8), form.bits) if form.zero_point else None
    return NBits(packed, narrowed(scales), points, form.bits, columns)


def quantize_with(matrix: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format) -> NBits:
    """Round a matrix float32 [out, in] with given scales and zero points [out, blocks]."""
    blocks, scales = to_blocks(matrix, form.block_size), storable(scales)
    return pack(integers(blocks, scales, zeros, form), scales, zeros, form, matrix.shape[1])


def threaded(work: Callable[[slice], T], parts: Sequence[slice]) -> list[T]:
    """Return the results of `work` on each part, in order, using all cores."""
    if len(parts) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(work, parts))


def slices(shape: tuple[int, ...], limit: int = IN_CACHE) -> list[slice]:
    """Return slices of rows with about `limit` weights each."""
    rows, columns = shape
    step = max(1, limit // max(columns, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def join(parts: list[NBits]) -> NBits:
    """Stack matrices that have the same columns."""
    first = parts[0]

    def joined(name: str) -> np.ndarray:
        # Some parts may be float16 and others float32, which the result is then.
        return np.concatenate([getattr(part, name) for part in parts])

    points = None if first.zero_points is None else joined("zero_points")
    minima = None if first.minima is None else joined("minima")
    return NBits(joined("packed"), joined("scales"), points, first.bits, first.columns, minima)
