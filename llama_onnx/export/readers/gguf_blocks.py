"""The block types of GGUF whose integers MatMulNBits can hold, as `NBits` that compute exactly what the file says.

Layouts are those of ggml-common.h. Values of 5 and 6 bits go into 8; a float minimum of a block stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..nbits import Levels, NBits, Numbers, pack_bits
from .gguf_file import PLAIN, Entry
from .raw import read_array

READ_AT_ONCE = 1 << 22  # weights
HALF = np.dtype("<f2")
OTHERS = {10: 2, 11: 3, 15: 8, 16: 2, 17: 2, 18: 3, 19: 1, 21: 3, 22: 2, 29: 1}  # bits of types that are not kept
K = 256  # weights that the K types store together


@dataclass(frozen=True)
class BlockType:
    """A block type.

    Attributes:
        size: weights that are stored together.
        bytes: that they take.
        bits: of a stored value.
        block_size: weights that share a scale.
        values: turns uint8 [n, bytes] into values uint8 [n, size].
        scales, minima: turn uint8 [n, bytes] into numbers of [n, size / block_size]; no minima where there are none.
    """

    size: int
    bytes: int
    bits: int
    block_size: int
    values: Callable[[np.ndarray], np.ndarray]
    scales: Callable[[np.ndarray], Numbers]
    minima: Callable[[np.ndarray], Numbers] | None = None

    @property
    def packed_bits(self) -> int:
        """Bits of the kernel that computes with the values."""
        return 4 if self.bits <= 4 else 8


def read_blocks(entry: Entry) -> NBits | None:
    """Return a matrix in the blocks of its file; None if its type is another, or its rows are not whole blocks.

    Raises:
        ModelDirectoryError: the file is too short, or cannot be read.
    """
    kind = TYPES.get(entry.type)
    if kind is None or len(entry.shape) != 2 or entry.shape[1] % kind.size:
        return None
    rows, columns = entry.shape
    row_bytes, blocks = columns // kind.size * kind.bytes, columns // kind.block_size
    packed = np.empty((rows, blocks, kind.block_size * kind.packed_bits // 8), np.uint8)
    scales: list[Numbers] = []
    minima: list[Numbers] = []
    step = max(1, READ_AT_ONCE // columns)  # rows
    first = np.uint8((1 << (kind.packed_bits - 1)) - (1 << (kind.bits - 1)))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        data = read_array(entry.path, entry.offset + start * row_bytes, count * row_bytes, np.uint8)
        data = data.reshape(-1, kind.bytes)
        values = (kind.values(data) + first).reshape(count, blocks, kind.block_size)
        packed[start : start + count] = pack_bits(values, kind.packed_bits)
        scales.append(kind.scales(data))
        if kind.minima:
            minima.append(kind.minima(data))
    return NBits(
        packed,
        _stacked(scales, rows),
        None,
        kind.packed_bits,
        columns,
        _stacked(minima, rows) if minima else None,
        kind.bits if kind.bits < kind.packed_bits else None,
    )


def bits_of(entry: Entry) -> int | None:
    """Return the bits of a value of a quantised tensor, without those of its scales; None for floats."""
    if entry.type in PLAIN:
        return None
    kind = TYPES.get(entry.type)
    return kind.bits if kind else OTHERS.get(entry.type, 4)


def _stacked(parts: list[Numbers], rows: int) -> Numbers:
    if isinstance(parts[0], Levels):
        levels = [part for part in parts if isinstance(part, Levels)]
        base, factors = (np.concatenate([getattr(level, name) for level in levels]) for name in ("base", "factors"))
        return Levels(base.reshape(rows, -1), factors.reshape(rows, -1))
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)]).reshape(rows, -1)


def _half(data: np.ndarray, place: int) -> np.ndarray:
    return data[:, place : place + 2].copy().view(HALF).astype(np.float16)


def _nibbles(data: np.ndarray, place: int) -> np.ndarray:
    """Return 32 values: the low halves of 16 bytes, then the high halves."""
    part = data[:, place : place + 16]
    return np.concatenate((part & 15, part >> 4), 1)


def _fifth_bits(data: np.ndarray, place: int) -> np.ndarray:
    """Return the highest bits of 32 values of 5 bits, in their place."""
    return np.unpackbits(data[:, place : place + 4], axis=1, bitorder="little") << np.uint8(4)


def _k_nibbles(data: np.ndarray, place: int) -> np.ndarray:
    """Return 256 values: of each 32 bytes the low halves, then the high halves."""
    part = data[:, place : place + 128].reshape(-1, 4, 1, 32)
    return np.concatenate((part & 15, part >> 4), 2).reshape(-1, K)


def _k_fifth_bits(data: np.ndarray, place: int) -> np.ndarray:
    bits = np.arange(8, dtype=np.uint8)[None, :, None]
    return (((data[:, None, place : place + 32] >> bits) & np.uint8(1)) << np.uint8(4)).reshape(-1, K)


def _q6_values(data: np.ndarray) -> np.ndarray:
    low = data[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate((low & 15, low >> 4), 2).reshape(-1, 2, 4, 32)
    high = (data[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & np.uint8(3)
    return (low | high << np.uint8(4)).reshape(-1, K)


def _k_factors(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of 6 bits of 8 scales and 8 minima, uint8 [n, 8] each, out of 12 bytes."""
    scales, minima, both = data[:, 4:8], data[:, 8:12], data[:, 12:16]
    return (
        np.concatenate((scales & 63, both & 15 | scales >> 6 << 4), 1),
        np.concatenate((minima & 63, both >> 4 | minima >> 6 << 4), 1),
    )


def _k_scales(data: np.ndarray) -> Levels:
    return Levels(_half(data, 0), _k_factors(data)[0])


def _k_minima(data: np.ndarray) -> Levels:
    return Levels(_half(data, 2), _k_factors(data)[1])


# By the numbers of ggml_type.
TYPES = {
    2: BlockType(32, 18, 4, 32, lambda d: _nibbles(d, 2), lambda d: _half(d, 0)),  # Q4_0
    3: BlockType(32, 20, 4, 32, lambda d: _nibbles(d, 4), lambda d: _half(d, 0), lambda d: -_half(d, 2)),  # Q4_1
    6: BlockType(32, 22, 5, 32, lambda d: _nibbles(d, 6) | _fifth_bits(d, 2), lambda d: _half(d, 0)),  # Q5_0
    7: BlockType(  # Q5_1
        32, 24, 5, 32, lambda d: _nibbles(d, 8) | _fifth_bits(d, 4), lambda d: _half(d, 0), lambda d: -_half(d, 2)
    ),
    8: BlockType(32, 34, 8, 32, lambda d: d[:, 2:] ^ np.uint8(128), lambda d: _half(d, 0)),  # Q8_0
    12: BlockType(K, 144, 4, 32, lambda d: _k_nibbles(d, 16), _k_scales, _k_minima),  # Q4_K
    13: BlockType(K, 176, 5, 32, lambda d: _k_nibbles(d, 48) | _k_fifth_bits(d, 16), _k_scales, _k_minima),  # Q5_K
    14: BlockType(  # Q6_K
        K, 210, 6, 16, _q6_values, lambda d: Levels(_half(d, 208), d[:, 192:208].view(np.int8))
    ),
}  # fmt: skip
