"""Rounding to nearest, without data and without search: the baseline of all methods."""

from __future__ import annotations

import numpy as np

from ...nbits import NBits, block_ranges, quantize_rtn
from .common import Format


def quantize(matrix: np.ndarray, form: Format) -> NBits:
    """Quantise float32 [out, in] with the scales of `range_of`."""
    return quantize_rtn(matrix, form.bits, form.block_size, form.zero_point)


def range_of(blocks: np.ndarray, form: Format, shrink: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and zero points [...] of blocks [..., block_size]; see `block_ranges`."""
    return block_ranges(blocks, form.bits, form.zero_point, shrink)
