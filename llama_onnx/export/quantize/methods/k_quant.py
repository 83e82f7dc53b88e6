"""Weighted least squares over a small grid of ranges, without data, as in llama.cpp's k-quants (ggml-quants.c).

The weight of w in the error of its block is sqrt(mean w²) + |w|, or a given importance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...nbits import NBits, nonzero, to_blocks
from . import rtn
from .common import Format, centred, join, quantize_with, rounded, slices, threaded
from .rtn import range_of

STEPS = 16  # ranges tried in addition to the full one
SHORTEST = 0.6  # the shortest range, relative to the full one


def quantize(matrix: np.ndarray, form: Format) -> NBits:
    """Quantise float32 [out, in]. With 8 bits it is rounded to nearest: a search finds next to nothing better."""
    if form.bits == 8:
        return rtn.quantize(matrix, form)

    def quantize_rows(rows: slice) -> NBits:
        blocks = to_blocks(matrix[rows], form.block_size)
        importance = np.sqrt(np.mean(blocks**2, -1, keepdims=True)) + np.abs(blocks)
        return quantize_with(matrix[rows], *search(blocks, form, importance), form)

    return join(threaded(quantize_rows, slices(matrix.shape)))


def search(blocks: np.ndarray, form: Format, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales and zero points [...] with the least weighted squared error of those tried.

    Each range of `candidates` is used for rounding; then its scale is replaced by the least-squares scale for the
    resulting integers. Rounding to nearest is also tried, so the result is never worse than that.

    Args:
        blocks: float32 [..., block_size].
        form: of the result.
        importance: float32, at least 0, broadcast against the blocks.
    """
    if form.minima:
        return _search_with_minima(blocks, form, importance)
    scales, zeros = range_of(blocks, form)
    best = _error(blocks, scales, zeros, form, importance)
    for tried_scales, tried_zeros in candidates(blocks, form):
        values = centred(blocks, tried_scales, tried_zeros, form)
        weighted = importance * values
        norm = (weighted * values).sum(-1)
        fitted = np.where(norm > 0, (weighted * blocks).sum(-1) / np.where(norm > 0, norm, 1), tried_scales)
        fitted = nonzero(fitted.astype(np.float32))
        error = _error(blocks, fitted, tried_zeros, form, importance)
        better = error < best
        best[better], scales[better], zeros[better] = error[better], fitted[better], tried_zeros[better]
    return scales, zeros


def candidates(blocks: np.ndarray, form: Format) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield initial scales and zero points.

    With zero points: shorter and shorter ranges. Without: the value of largest magnitude is mapped to the lowest
    integer, which has no positive counterpart (2^(bits-1) steps instead of 2^(bits-1) - 1; the scale has the sign for
    it), again with shorter and shorter ranges.
    """
    shrinks = np.linspace(1, SHORTEST, STEPS + 1)
    if form.zero_point:
        for shrink in shrinks:
            yield range_of(blocks, form, shrink)
        return
    place = np.abs(blocks).argmax(-1)[..., None]
    largest = np.take_along_axis(blocks, place, -1)[..., 0]
    zeros = np.full(largest.shape, form.middle, np.float32)
    for shrink in shrinks:
        yield nonzero(largest * np.float32(-shrink / form.middle)), zeros


def _search_with_minima(blocks: np.ndarray, form: Format, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`search` for scale and minimum: a line is fitted to the integers of each step size that is tried."""
    plain = range_of(blocks, form)
    shape, lowest = plain[0].shape, blocks.min(-1).reshape(-1)
    # With blocks as columns, numpy adds many of them at once. Weights and integers are counted from their means: with
    # larger numbers, float32 would cancel.
    weights, columns = _columns(np.broadcast_to(importance, blocks.shape)), _columns(blocks)
    total = nonzero(weights.sum(0))
    mean = (weights * columns).sum(0) / total
    weighted = weights * (columns - mean)
    squares = (weighted * (columns - mean)).sum(0)
    columns -= lowest
    columns /= nonzero(columns.max(0))
    values, product = np.empty_like(columns), np.empty_like(columns)
    scales, zeros = np.ones_like(mean), np.zeros_like(mean)
    best = np.full_like(mean, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        for levels in np.linspace(form.highest - 1, form.highest + 1, STEPS + 5, dtype=np.float32):
            np.rint(np.multiply(columns, levels, out=values), out=values)
            if levels > form.highest:
                np.minimum(values, form.highest, out=values)
            middle = np.multiply(weights, values, out=product).sum(0) / total
            values -= middle
            products = np.multiply(weighted, values, out=product).sum(0)
            np.multiply(weights, values, out=product)
            variance = np.multiply(product, values, out=product).sum(0)
            scale = products / variance
            error = squares - scale * products
            better = (error < best) & (scale != 0) & np.isfinite(scale)
            np.copyto(best, error, where=better)
            np.copyto(scales, scale, where=better)
            np.copyto(zeros, middle - mean / scale, where=better)
    found = scales.reshape(shape), zeros.reshape(shape)
    worse = _error(blocks, *found, form, importance) >= _error(blocks, *plain, form, importance)
    return np.where(worse, plain[0], found[0]), np.where(worse, plain[1], found[1])


def _columns(blocks: np.ndarray) -> np.ndarray:
    """Return blocks [..., block_size] as float32 [block_size, all blocks]."""
    return np.ascontiguousarray(blocks.reshape(-1, blocks.shape[-1]).T, np.float32)


def _error(
    blocks: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format, importance: np.ndarray
) -> np.ndarray:
    values = rounded(blocks, scales, zeros, form)
    values -= blocks
    values *= values
    values *= importance
    return values.sum(-1)
