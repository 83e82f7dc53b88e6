"""Rotary embedding in formats other than Hugging Face's: the order of rows, and the scaling of Llama 3.1."""

from __future__ import annotations

import numpy as np

from ...errors import ModelDirectoryError

# Constants of Llama 3.1 and later, which other formats leave out.
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rows_in_halves(name: str, array: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Return a tensor in the row order of Hugging Face: queries and keys are reordered by `half_rotation`.

    Args:
        name: of the tensor in a Hugging Face checkpoint.
        array: the tensor, or an array of a quantised tensor with a row for each output.
        heads: query heads of the model.
        kv_heads: key heads of the model.
    """
    if ".q_proj." in name:
        return half_rotation(array, heads)
    return half_rotation(array, kv_heads) if ".k_proj." in name else array


def half_rotation(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key projection from interleaved pairs to halves.

    Meta's code, llama2.c and llama.cpp rotate neighbours (0, 1), (2, 3) … as pairs. The Hugging Face layout has the
    first of each pair in the first half of a head and the second in the other half.

    Args:
        array: [heads · head_dim, …].
        heads: how many there are.
    """
    if len(array) % (2 * heads):
        raise ModelDirectoryError(
            f"a rotary projection of {len(array)} rows does not divide into {heads} heads of pairs"
        )
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)
