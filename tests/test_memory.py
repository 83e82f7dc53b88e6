"""Spellings of sizes, and the memory of the process."""

from __future__ import annotations

import numpy as np
import pytest

from llama_onnx.errors import RequestError
from llama_onnx.memory import GIB, MIB, format_size, lazy_zeros, parse_size, peak_bytes, process_bytes
from llama_onnx.streaming.available import available_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4", 4 * GIB),
        (4, 4 * GIB),
        (0.5, GIB // 2),
        (".5", GIB // 2),
        ("512MB", 512 * MIB),
        ("512 mib", 512 * MIB),
        ("2GB", 2 * GIB),
        ("1.5g", 3 * GIB // 2),
        ("100kb", 100 << 10),
    ],
)
def test_sizes_are_parsed_in_all_usual_spellings(text: str | float, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "abc", "-1", "0", "0GB", "1 PB", "1,5", "nan", "inf", "2GB2", "1e-30"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="not a memory size"):
        parse_size(text)


def test_sizes_are_formatted_with_a_unit() -> None:
    assert [format_size(size) for size in (0, 2048, 512 * MIB, 3.5 * GIB)] == ["0 B", "2 KB", "512 MB", "3.5 GB"]


def test_process_and_peak_memory_follow_the_touched_pages() -> None:
    before = process_bytes()
    block = np.ones(64 * MIB, np.uint8)
    assert process_bytes() - before > 60 * MIB
    del block
    assert peak_bytes() - before > 60 * MIB
    assert 0 < available_bytes() < 1 << 50


def test_lazy_zeros_take_memory_only_for_written_pages() -> None:
    before = process_bytes()
    block = lazy_zeros((64, MIB), np.uint8)  # 64 MB, written at the start of every megabyte
    block[:, 0] = 1
    assert process_bytes() - before < 4 * MIB
    assert block.sum() == 64
    assert lazy_zeros((1 << 44,), np.uint8)[-1] == 0  # 16 TB: more than a machine has
    assert lazy_zeros((2, 3)).tolist() == np.zeros((2, 3)).tolist()
