"""Half-quadratic quantisation (Badri and Shaji 2023, "HQQ"): a sparse error norm, without data.

Minimises Σ|w - s·(q - z)|^p with p < 1, which tolerates a few large errors. The residual becomes a separate variable.
Each step shrinks it, then solves for the zero point and the scale in closed form. The kernels need whole zero points,
so each step rounds z, and s compensates. Without zero points, only s is solved for.
"""

from __future__ import annotations

import numpy as np

from ...nbits import NBits, nonzero, to_blocks
from .common import Format, integers, join, quantize_with, rounded, slices, threaded
from .rtn import range_of

POWER = 0.7
STEPS = 20
BETA, GROWTH = 10.0, 1.01  # of the paper's code: the weight of the split, and its growth per step


def quantize(matrix: np.ndarray, form: Format) -> NBits:
    """Quantise float32 [out, in]."""

    def quantize_rows(rows: slice) -> NBits:
        return quantize_with(matrix[rows], *solve(to_blocks(matrix[rows], form.block_size), form), form)

    return join(threaded(quantize_rows, slices(matrix.shape)))


def solve(blocks: np.ndarray, form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and zero points [...] of blocks [..., block_size].

    Each block keeps its best step, so its norm is never worse than that of rounding to nearest.
    """
    unit = nonzero(np.abs(blocks).max(-1))  # the paper's constants assume weights around 1
    blocks = blocks / unit[..., None]
    scales, zeros = range_of(blocks, form)
    best_scales, best_zeros, best = scales.copy(), zeros.copy(), _norm(blocks, scales, zeros, form)
    beta = BETA
    for _ in range(STEPS):
        values = integers(blocks, scales, zeros, form)
        residual = shrink(blocks - scales[..., None] * (values - zeros[..., None]), beta)
        target = blocks - residual
        if form.zero_point:
            zeros = np.clip(np.rint((values - target / scales[..., None]).mean(-1)), 0, form.highest)
        values -= zeros[..., None]
        square = (values * values).sum(-1)
        fitted = (values * target).sum(-1) / np.where(square > 0, square, 1)
        scales = np.where((square > 0) & (fitted != 0), fitted, scales).astype(np.float32)
        norm = _norm(blocks, scales, zeros, form)
        better = norm < best
        best[better], best_scales[better], best_zeros[better] = norm[better], scales[better], zeros[better]
        beta *= GROWTH
    return best_scales * unit, best_zeros


def shrink(residual: np.ndarray, beta: float) -> np.ndarray:
    """The generalised soft threshold: sign(r) · max(0, |r| - |r|^(p-1) / β)."""
    size = np.abs(residual)
    with np.errstate(divide="ignore"):
        smaller = np.maximum(size - size ** np.float32(POWER - 1) / np.float32(beta), 0)
    return np.sign(residual) * smaller


def _norm(blocks: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format) -> np.ndarray:
    return (np.abs(blocks - rounded(blocks, scales, zeros, form)) ** np.float32(POWER)).sum(-1)
