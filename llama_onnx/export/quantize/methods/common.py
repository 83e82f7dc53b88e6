"""What the methods share: a `Format`, rounding with given scales and zero points, packing, and threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ...nbits import NBits, check_format, pack_bits, to_blocks

IN_CACHE = 1 << 16  # weights: a few arrays of this size fit into a core's cache, which is several times as fast
T = TypeVar("T")


@dataclass(frozen=True)
class Format:
    """The format of a quantised matrix.

    Attributes:
        bits: of a weight: 2, 4 or 8.
        block_size: how many weights along the inputs share a scale.
        zero_point: whether each block has its own zero point; otherwise it is the middle, 2^(bits - 1).
    """

    bits: int = 4
    block_size: int = 128
    zero_point: bool = False

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
    """Return float32 whole numbers clip(round(w / s) + z, 0, 2^bits - 1).

    Args:
        blocks: float32 [..., block_size].
        scales, zeros: float32 [...].
        form: of the result.
    """
    values = centred(blocks, scales, zeros, form)
    values += zeros[..., None]
    return values


def centred(blocks: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format) -> np.ndarray:
    """Return float32 whole numbers clip(round(w / s), -z, 2^bits - 1 - z): `integers` minus their zero points."""
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
    points = pack_bits(zeros.astype(np.uint8), form.bits) if form.zero_point else None
    packed = pack_bits(values.astype(np.uint8), form.bits)
    return NBits(packed, np.ascontiguousarray(scales, np.float32), points, form.bits, columns)


def quantize_with(matrix: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format) -> NBits:
    """Round a matrix float32 [out, in] with given scales and zero points [out, blocks]."""
    blocks = to_blocks(matrix, form.block_size)
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
    points = None if first.zero_points is None else np.concatenate([part.zero_points for part in parts])
    packed, scales = (np.concatenate([getattr(part, name) for part in parts]) for name in ("packed", "scales"))
    return NBits(packed, scales, points, first.bits, first.columns)
