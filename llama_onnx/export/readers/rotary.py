"""Rotary embedding in formats other than Hugging Face's: the order of rows, and the scaling of Llama 3.1."""

from __future__ import annotations

import numpy as np

from ...errors import ModelDirectoryError

# Published beside the weights for Llama 3.1 and later; the files hold the factor at most.
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rows_in_halves(name: str, array: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Return a tensor in the row order of Hugging Face: queries and keys through `half_rotation`, others as they are.

    Args:
        name: of the tensor in a Hugging Face checkpoint.
        array: the tensor, or one of the arrays of a quantised one, a row for each output.
        heads: query heads of the model.
        kv_heads: key heads of the model.
    """
    if ".q_proj." in name:
        return half_rotation(array, heads)
    return half_rotation(array, kv_heads) if ".k_proj." in name else array


def half_rotation(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key projection from interleaved pairs to halves.

    Meta's code, llama2.c and llama.cpp turn neighbours (0, 1), (2, 3) … against each other; the Hugging Face layout has
    the first of all pairs in the first half of a head and the second in the other. Works on whole heads.

    Args:
        array: [heads · head_dim, …].
        heads: how many there are.
    """
    if len(array) % (2 * heads):
        raise ModelDirectoryError(f"a rotary projection of {len(array)} rows does not make {heads} heads of pairs")
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(array.shape)
