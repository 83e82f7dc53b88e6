"""All 16-bit weights are widened to float32 exactly."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from llama_onnx.export.half import WIDENED_AT_ONCE, widen


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_number_is_widened_exactly(dtype: Any) -> None:
    numbers = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    finite = numbers[np.isfinite(numbers)]
    for values in (finite, finite[:3], finite[::2], numbers[~np.isnan(numbers)], finite[:400].reshape(20, 20).T):
        assert np.array_equal(widen(values).view(np.uint32), values.astype(np.float32).view(np.uint32))
    assert np.array_equal(np.isnan(widen(numbers)), np.isnan(numbers))


def test_arrays_larger_than_a_chunk_are_widened_completely() -> None:
    values = np.random.default_rng(0).standard_normal((3, WIDENED_AT_ONCE // 2 + 7)).astype(np.float16)
    assert np.array_equal(widen(values), values.astype(np.float32))
    assert widen(values.astype(np.float32)).dtype == np.float32
    assert widen(np.zeros((0, 3), np.float16)).shape == (0, 3)
