"""Pads attention heads with zeros to the size that the kernel needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..families.spec import DecoderSpec


def pad_heads(array: np.ndarray, heads: int, spec: DecoderSpec, rotary: bool) -> np.ndarray:
    """Pad the heads of [heads · head_dim, …] with zeros to the size that the attention kernel needs.

    The two halves that rotary embedding pairs are each widened to the columns of its tables. The dimensions that are
    not rotated follow.
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
    """Return the new place of each row, int64 [count], when `arrange` adds rows of zeros as `pad_heads` does."""
    marked = arrange(np.arange(1, count + 1))
    places = np.empty(count, np.int64)
    there = np.flatnonzero(marked)
    places[marked[there] - 1] = there
    return places


def norm_heads(spec: DecoderSpec) -> tuple[float, float]:
    """Return the factors for the weight and the epsilon of a head norm whose heads are padded with zeros.

    The mean square of a padded head is that of the head times head_dim / padded size.
    """
    share = spec.head_dim / spec.cache_head_dim
    return share**0.5, share
