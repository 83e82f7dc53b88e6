"""Rounding to nearest: no data, no search. What every other method is compared with."""

from __future__ import annotations

import numpy as np

from ...nbits import NBits, quantize_rtn
from .common import Format, nonzero


def quantize(matrix: np.ndarray, form: Format) -> NBits:
    """Quantise float32 [out, in] with the scales of `range_of`."""
    return quantize_rtn(matrix, form.bits, form.block_size, form.zero_point)


def range_of(blocks: np.ndarray, form: Format, shrink: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and zero points [...] of blocks [..., block_size].

    Symmetric: scale = max|w| / (2^(bits-1) - 1). With zero points: scale = (max - min) / (2^bits - 1), over a range
    that includes 0, zero point = round(-min / scale). `shrink` multiplies the range first.
    """
    if form.zero_point:
        low = np.minimum(blocks.min(-1), 0) * np.float32(shrink)
        high = np.maximum(blocks.max(-1), 0) * np.float32(shrink)
        scales = nonzero((high - low) / np.float32(form.highest))
        return scales, np.clip(np.rint(-low / scales), 0, form.highest)
    scales = nonzero(np.abs(blocks).max(-1) * np.float32(shrink) / np.float32(form.middle - 1))
    return scales, np.full_like(scales, form.middle)
