"""GPTQ (Frantar et al. 2022): weights are rounded one by one, and the remaining ones compensate for each error.

H = XᵀX is the Hessian of the squared error of the products. With H⁻¹ = UᵀU and U upper triangular, row i of U gives
the best compensation for an error at input i: w_j -= (w_i - q_i) / U_ii · U_ij for every later input j.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....errors import RequestError
from ...nbits import NBits, storable, to_blocks
from .common import Format, join, pack, slices, threaded
from .k_quant import search
from .rtn import range_of

PANEL = 512  # rows and columns processed at once, so that a matrix need not be in memory twice
BATCH = 128  # inputs whose errors are applied to later inputs in one product
ROWS = 1024  # outputs quantised at once: they are independent, and a batch of their weights fits into the cache
EXACT = 2048  # up to this many inputs, the factorisation is in float64


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs to know about the inputs. Matrices that read the same inputs share it.

    Attributes:
        upper: U, float32 [in, in], rows and columns in `order`.
        order: int [in], the order in which inputs are quantised.
        importance: float32 [in], the diagonal of the Hessian divided by its mean.
    """

    upper: np.ndarray
    order: np.ndarray
    importance: np.ndarray

    @property
    def in_order(self) -> bool:
        """Whether inputs are quantised in their original order."""
        return bool((np.diff(self.order) > 0).all())


def factorise(hessian: np.ndarray, damp: float = 0.01, descending: bool = False) -> Factor:
    """Return the factor of a Hessian.

    Args:
        hessian: float32 [in, in], XᵀX of the inputs, up to a factor. It is overwritten to save memory.
        damp: the fraction of the mean diagonal that is added to the diagonal.
        descending: quantise inputs with a large diagonal first.
    """
    diagonal = prepare(hessian, damp)
    order = np.argsort(-diagonal, kind="stable") if descending else np.arange(len(hessian))
    if descending:
        hessian = hessian[np.ix_(order, order)]
    upper = inverse_factor(hessian.astype(np.float64) if len(hessian) <= EXACT else hessian)
    return Factor(upper.astype(np.float32, copy=False), order, (diagonal / diagonal.mean()).astype(np.float32))


def quantize(matrix: np.ndarray, form: Format, factor: Factor, search_scales: bool = True) -> NBits:
    """Quantise float32 [out, in].

    In the original order, the scale of a block is chosen when the block is reached, from its updated weights. In
    another order, the weights of a block are quantised far apart, so all scales come from the original weights.

    Args:
        matrix: the weights.
        form: of the result.
        factor: see `factorise`.
        search_scales: choose scales by least squares, weighted by the importance of inputs; otherwise by range.
    """
    parts = slices(matrix.shape, ROWS * matrix.shape[1])
    return join(threaded(lambda rows: _quantize_rows(matrix[rows], form, factor, search_scales), parts))


def _quantize_rows(matrix: np.ndarray, form: Format, factor: Factor, search_scales: bool) -> NBits:
    order, upper, in_order = factor.order, factor.upper, factor.in_order
    rows, columns = matrix.shape
    size, blocks = form.block_size, -(-columns // form.block_size)
    importance = np.zeros((blocks, size), np.float32)
    importance.reshape(-1)[:columns] = factor.importance

    def ranges(weights: np.ndarray, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scales and zero points [out, …] of weights [out, …, block_size]."""
        scales, zeros = search(weights, form, importance) if search_scales else range_of(weights, form)
        return storable(scales), zeros

    if in_order:
        scales, zeros = np.ones((rows, blocks), np.float32), np.full((rows, blocks), form.middle, np.float32)
    else:
        by_block = to_blocks(matrix, size)
        chosen = [ranges(by_block[part], importance) for part in slices(matrix.shape)]
        scales, zeros = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
    scales, zeros = np.ascontiguousarray(scales.T), np.ascontiguousarray(zeros.T)  # [blocks, out]
    values = np.full((blocks * size, rows), form.middle, np.uint8)
    work = np.array(matrix.T if in_order else matrix.T[order], np.float32, order="C")  # [in, out]
    batch = max(BATCH, size)
    for start in range(0, columns, batch):
        end = min(start + batch, columns)
        corner = np.ascontiguousarray(upper[start:end, start:end].T)
        errors = np.empty((end - start, rows), np.float32)
        for i in range(start, end):
            done = i - start
            column = order[i]
            block = column // size
            if in_order and i % size == 0:
                last = min(i + size, columns)
                weights = work[i:last] - corner[done : last - start, :done] @ errors[:done]
                padded = to_blocks(weights.T, size)[:, 0]
                scales[block], zeros[block] = ranges(padded, importance[block])
            weights = work[i] - corner[done, :done] @ errors[:done]
            if form.minima:
                whole = np.clip(np.rint(weights / scales[block] + zeros[block]), 0, form.highest)
            else:
                whole = np.clip(np.rint(weights / scales[block]) + zeros[block], 0, form.highest)
            values[column] = whole
            errors[done] = (weights - (whole - zeros[block]) * scales[block]) / corner[done, done]
        for first in range(end, columns, PANEL):  # later inputs, once for the whole batch
            last = min(first + PANEL, columns)
            work[first:last] -= upper[start:end, first:last].T @ errors
    if form.zero_point or form.minima:  # padding must be 0
        values[columns:] = zeros[-1]
    del work
    packed = np.ascontiguousarray(values.T).reshape(rows, blocks, size)
    return pack(packed, np.ascontiguousarray(scales.T), np.ascontiguousarray(zeros.T), form, columns)


def prepare(hessian: np.ndarray, damp: float) -> np.ndarray:
    """Damp a Hessian in place and return its diagonal. Inputs that are always 0 get the mean diagonal."""
    diagonal = hessian.diagonal().copy()
    if not np.isfinite(diagonal).all():
        raise RequestError(
            "the inputs of a matrix are not finite on the calibration text; the checkpoint may be damaged"
        )
    mean = diagonal.mean() or 1.0
    dead = diagonal == 0
    diagonal[dead] = mean
    diagonal += damp * mean
    hessian[np.diag_indices_from(hessian)] = diagonal
    return diagonal


def inverse_factor(h: np.ndarray) -> np.ndarray:
    """Replace a positive definite H by U, upper triangular with UᵀU = H⁻¹, and return it.

    H = RRᵀ with R upper triangular is computed from the last panel to the first; then U = R⁻¹. Only `h` and one panel
    are in memory.
    """
    count = len(h)
    starts = range(0, count, PANEL)
    inverses = {}
    for start in reversed(starts):
        end = min(start + PANEL, count)
        corner = h[start:end, start:end].astype(np.float64)
        try:
            root = np.linalg.cholesky(corner[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            raise RequestError(
                "the calibration inputs are degenerate; give more text, or a larger --gptq-damp"
            ) from None
        inverses[start] = np.triu(np.linalg.inv(root)).astype(h.dtype)
        if start:
            above = h[:start, start:end] @ inverses[start].T
            h[:start, start:end] = above

            def subtract(rows: slice, above: np.ndarray = above) -> None:
                h[rows, rows.start : len(above)] -= above[rows] @ above[rows.start :].T

            threaded(subtract, slices(above.shape, PANEL * PANEL))
    for start in starts:
        end = min(start + PANEL, count)
        if start:

            def solve(rows: slice, start: int = start, end: int = end) -> np.ndarray:
                return (h[rows, rows.start : start] @ h[rows.start : start, start:end]) @ -inverses[start]

            h[:start, start:end] = np.concatenate(threaded(solve, slices((start, PANEL), PANEL * PANEL)))
        h[start:end, start:end] = inverses[start]
        h[end:, start:end] = 0
    return h
