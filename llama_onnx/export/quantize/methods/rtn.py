"""Rounding to nearest, without data and without search: the baseline of all methods."""

from __future__ import annotations

import numpy as np

from ...nbits import NBits, block_ranges, nonzero, quantize_rtn, to_blocks
from .common import Format, quantize_with, slices


def quantize(matrix: np.ndarray, form: Format) -> NBits:
    """Quantise float32 [out, in] with the scales of `range_of`."""
    if form.minima:
        blocks = (to_blocks(matrix[rows], form.block_size) for rows in slices(matrix.shape))
        scales, zeros = (np.concatenate(parts) for parts in zip(*(range_of(b, form) for b in blocks), strict=True))
        return quantize_with(matrix, scales, zeros, form)
    return quantize_rtn(matrix, form.bits, form.block_size, form.zero_point)


def range_of(blocks: np.ndarray, form: Format, shrink: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and zero points [...] of blocks [..., block_size]; see `block_ranges`.

    With minima, the range is that from the smallest to the largest weight, whether or not it includes 0.
    """
    if form.minima:
        low, high = blocks.min(-1) * np.float32(shrink), blocks.max(-1) * np.float32(shrink)
        scales = nonzero((high - low) / np.float32(form.highest))
        return scales, -low / scales
    return block_ranges(blocks, form.bits, form.zero_point, shrink)
