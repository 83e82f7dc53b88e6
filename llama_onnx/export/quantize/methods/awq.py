"""Activation-aware quantisation (Lin et al. 2023, "AWQ"): scale important inputs up, clip ranges.

`find_scales` is AWQ lite: input channels of a matrix are multiplied by t before rounding, and the inputs divided by t.
`clip_ranges` is AWQ clip: the range of each block is shortened if that lowers the error of its products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...nbits import NBits, to_blocks
from . import rtn
from .common import Format, join, quantize_with, rounded, slices, threaded

AT_ONCE = 1 << 20  # weights that are multiplied with the sample at once
LOSS_WEIGHTS = 1 << 22  # of a matrix on which scales are judged: all rows share them, so some rows are enough
LOWEST, HIGHEST = 1e-4, 1e4  # of t


def find_scales(
    matrices: Sequence[np.ndarray],
    form: Sequence[Format],
    mean_abs: np.ndarray,
    sample: np.ndarray,
    alpha_step: float = 0.1,
    shared: np.ndarray | None = None,
) -> np.ndarray:
    """Return t, float32 [in], by which the input channels of all these matrices are multiplied.

    For each α from 0 to 1: t = a^α / b^(1-α), clipped and divided by sqrt(max t · min t). Here a is the mean absolute
    value of an input, and b the mean over outputs of |w| / max|w| of its block. The result is the t whose products have
    the least squared error; t = 1 is also tried.

    Args:
        matrices: float32 [out, in] each, all with the same inputs (q, k and v; gate and up).
        form: the format of each quantised matrix.
        mean_abs: a, float32 [in].
        sample: inputs float32 [tokens, in] on which the error is measured.
        alpha_step: of the grid of α.
        shared: int [in]; inputs with the same number get the same t. None if there are no such inputs.
    """
    live = mean_abs > 0
    size = _pooled(np.maximum(mean_abs, 1e-8), shared)
    share = _pooled(np.maximum(_share_of_block(matrices, form[0].block_size), 1e-8), shared)
    best = np.ones_like(size)
    matrices = [_some_rows(matrix) for matrix in matrices]
    least = _loss(matrices, form, best, sample)
    for alpha in np.append(np.arange(0, 1 - alpha_step / 2, alpha_step), 1.0):
        t = np.clip(size**alpha / share ** (1 - alpha), LOWEST, HIGHEST)
        t = np.where(live, t, 1) / np.sqrt(t[live].max(initial=LOWEST) * t[live].min(initial=HIGHEST))
        t = np.where(live, t, 1).astype(np.float32)
        loss = _loss(matrices, form, t, sample)
        if loss < least:
            least, best = loss, t
    return best


def clip_ranges(
    matrix: np.ndarray,
    form: Format,
    sample: np.ndarray,
    alpha_step: float = 0.05,
    alpha_min: float = 0.5,
) -> NBits:
    """Quantise float32 [out, in] after multiplying the range of each block by its best k, from 1 down to `alpha_min`.

    Args:
        matrix: the weights, after scaling if any.
        form: of the result.
        sample: inputs float32 [tokens, in], divided by the same scales, on which the error of each block's part of the
            product is measured.
        alpha_step: of the grid of k.
        alpha_min: the smallest k.
    """
    size = form.block_size
    inputs = np.ascontiguousarray(to_blocks(sample, size).transpose(1, 2, 0))  # [blocks, block_size, tokens]
    shrinks = np.arange(1 - alpha_step, alpha_min - alpha_step / 2, -alpha_step)

    def search(rows: slice) -> NBits:
        blocks = to_blocks(matrix[rows], size)
        scales, zeros = rtn.range_of(blocks, form)
        for i, block_inputs in enumerate(inputs):
            block = np.ascontiguousarray(blocks[:, i])
            best = _block_loss(block, scales[:, i], zeros[:, i], form, block_inputs)
            for shrink in shrinks:
                tried = rtn.range_of(block, form, float(shrink))
                loss = _block_loss(block, *tried, form, block_inputs)
                better = loss < best
                best[better], scales[better, i], zeros[better, i] = loss[better], tried[0][better], tried[1][better]
        return quantize_with(matrix[rows], scales, zeros, form)

    return join(threaded(search, slices((len(matrix), size))))  # the same block of many rows fits into the cache


def _some_rows(matrix: np.ndarray) -> np.ndarray:
    """Return rows spread evenly over a matrix, or all if there are few."""
    count = max(1, LOSS_WEIGHTS // matrix.shape[1])
    return matrix if count >= len(matrix) else matrix[np.linspace(0, len(matrix) - 1, count).round().astype(int)]


def _share_of_block(matrices: Sequence[np.ndarray], block_size: int) -> np.ndarray:
    total, count = np.zeros(matrices[0].shape[1], np.float64), 0
    for matrix in matrices:
        for rows in slices(matrix.shape):
            blocks = np.abs(to_blocks(matrix[rows], block_size))
            blocks /= blocks.max(-1, keepdims=True) + 1e-6 * (blocks.max() or 1)
            total += blocks.reshape(len(blocks), -1)[:, : len(total)].sum(0)
        count += len(matrix)
    return (total / count).astype(np.float32)


def _pooled(values: np.ndarray, shared: np.ndarray | None) -> np.ndarray:
    """Return for each input the mean over all inputs with the same number."""
    if shared is None:
        return values
    means = np.bincount(shared, values) / np.maximum(np.bincount(shared), 1)
    return means[shared].astype(np.float32)


def _loss(matrices: Sequence[np.ndarray], form: Sequence[Format], t: np.ndarray, sample: np.ndarray) -> float:
    """Return the squared error of the products: |x·Wᵀ - (x / t)·Q(t·W)ᵀ|²."""
    total = 0.0
    for matrix, its_form in zip(matrices, form, strict=True):

        def measure(rows: slice, matrix: np.ndarray = matrix, form: Format = its_form) -> float:
            errors = matrix[rows] * t
            for few in slices(errors.shape):
                blocks = to_blocks(errors[few], form.block_size)
                near = rounded(blocks, *rtn.range_of(blocks, form), form)
                errors[few] -= near.reshape(len(near), -1)[:, : matrix.shape[1]]
            errors /= t
            return float(np.square(errors @ sample.T).sum(dtype=np.float64))

        total += sum(threaded(measure, slices(matrix.shape, AT_ONCE)))
    return total


def _block_loss(
    block: np.ndarray, scales: np.ndarray, zeros: np.ndarray, form: Format, inputs: np.ndarray
) -> np.ndarray:
    """Return the squared error [out] of the products of a block [out, block_size] with inputs [block_size, tokens]."""
    difference = rounded(block, scales, zeros, form)
    difference -= block
    products = difference @ inputs
    return np.einsum("ot,ot->o", products, products)
