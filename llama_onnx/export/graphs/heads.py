"""Attention heads padded with zeros to the size the kernel takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..families.spec import DecoderSpec


def pad_heads(array: np.ndarray, heads: int, spec: DecoderSpec, rotary: bool) -> np.ndarray:
    """Widen the heads of [heads · head_dim, …] with zeros to the size the attention kernel takes.

    The halves that rotary embedding turns against each other are each widened to the columns of its tables; what it
    leaves alone comes after them.
    """
    if spec.cache_head_dim == spec.head_dim:
        return array
    split = array.reshape(heads, spec.head_dim, *array.shape[1:])
    wide = np.zeros((heads, spec.cache_head_dim, *array.shape[1:]), array.dtype)
    half, columns = (spec.rope.half, spec.rope.columns) if rotary else (0, 0)
    wide[:, :half] = split[:, :half]
    wide[:, columns : columns + half] = split[:, half : 2 * half]
    wide[:, 2 * columns : 2 * columns + spec.head_dim - 2 * half] = split[:, 2 * half :]
    return wide.reshape(-1, *array.shape[1:])


def positions_of(arrange: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """Return int64 [count]: where a rearrangement that adds rows of zeros, as `pad_heads` does, puts each row."""
    marked = arrange(np.arange(1, count + 1))
    places = np.empty(count, np.int64)
    there = np.flatnonzero(marked)
    places[marked[there] - 1] = there
    return places


def norm_heads(spec: DecoderSpec) -> tuple[float, float]:
    """Return what weights and epsilon of a head norm are multiplied with, heads being padded with zeros.

    The mean of squares over the padded head is the true one times head_dim / padded size.
    """
    share = spec.head_dim / spec.cache_head_dim
    return share**0.5, share
