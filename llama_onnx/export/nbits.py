"""Block-quantised matrices in the layout of the MatMulNBits operator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import RequestError
from .half import widen

BITS = (2, 4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)
ROUNDED_AT_ONCE = 1 << 17  # weights
LOADED_BYTES_OF_BLOCK = 12  # its scale and a sum (measured)
LOST_IN_HALF = 2.0**-8  # the largest relative error with which scales are stored in float16
ACCURACY_LEVEL = 4  # int8 activations; otherwise 8-bit products dequantise the whole matrix at every call


@dataclass(frozen=True)
class Levels:
    """Numbers of blocks in two levels: those of a group share a base.

    Attributes:
        base: float16 [out, groups].
        factors: int8 or uint8 [out, blocks]; as many blocks in each group.
    """

    base: np.ndarray
    factors: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and blocks."""
        return self.factors.shape

    def widened(self) -> np.ndarray:
        """Return base · factor, float32 [out, blocks]."""
        factors = self.factors.astype(np.float32).reshape(*self.base.shape, -1)
        return (self.base.astype(np.float32)[..., None] * factors).reshape(self.factors.shape)


Numbers = np.ndarray | Levels  # of blocks: float32 or float16 [out, blocks], or in two levels


@dataclass(frozen=True)
class NBits:
    """A matrix [out, in] in blocks along `in`: w = (q - zero point) · scale, or q · scale - minimum.

    Attributes:
        packed: uint8 [out, blocks, block_size · bits / 8]; unsigned values q + first, the first in the lowest bits.
        scales: one for each block.
        zero_points: uint8 [out, ceil(blocks · bits / 8)], packed like the values; None means the middle of the range.
        bits: 2, 4 or 8.
        columns: the size of `in` before padding to whole blocks.
        minima: one for each block, if there are any. There are no zero points then.
        kept_bits: how many bits the values q have, and take on disk, if fewer than `bits`.
    """

    packed: np.ndarray
    scales: Numbers
    zero_points: np.ndarray | None
    bits: int
    columns: int
    minima: Numbers | None = None
    kept_bits: int | None = None

    @property
    def block_size(self) -> int:
        """How many weights share a scale."""
        return self.packed.shape[2] * 8 // self.bits

    @property
    def middle(self) -> int:
        """The middle of the range of q, which stands for 0 where there are neither zero points nor minima."""
        return 1 << ((self.kept_bits or self.bits) - 1)

    @property
    def first(self) -> int:
        """What is added to q, so that its middle is that of the packed bits, where the kernels expect it."""
        return (1 << (self.bits - 1)) - self.middle

    @property
    def loaded_bytes(self) -> int:
        """Bytes in memory, where the values are repacked for the CPU with a few bytes for each block."""
        blocks = self.packed.shape[0] * self.packed.shape[1]
        return self.packed.nbytes + blocks * (LOADED_BYTES_OF_BLOCK + (0 if self.minima is None else 4))

    def trimmed(self) -> NBits:
        """Return the matrix in the smallest block that holds a row, if it has one block only: the rest is padding."""
        size = min((size for size in BLOCK_SIZES if size >= self.columns), default=self.block_size)
        if self.packed.shape[1] > 1 or size >= self.block_size:
            return self
        return replace(self, packed=np.ascontiguousarray(self.packed[:, :, : size * self.bits // 8]))

    def rows(self, arrange: Callable[[np.ndarray], np.ndarray]) -> NBits:
        """Return the matrix with its rows rearranged. Rows of zeros that `arrange` adds are 0, as their scales are."""

        def numbers(of: Numbers) -> Numbers:
            if isinstance(of, Levels):
                return Levels(*(np.ascontiguousarray(arrange(part)) for part in (of.base, of.factors)))
            return np.ascontiguousarray(arrange(of))

        return replace(
            self,
            packed=np.ascontiguousarray(arrange(self.packed)),
            scales=numbers(self.scales),
            zero_points=None if self.zero_points is None else np.ascontiguousarray(arrange(self.zero_points)),
            minima=None if self.minima is None else numbers(self.minima),
        )


def widened(numbers: Numbers) -> np.ndarray:
    """Return the numbers of blocks as float32 [out, blocks]."""
    return numbers.widened() if isinstance(numbers, Levels) else numbers.astype(np.float32, copy=False)


def quantize_rtn(matrix: np.ndarray, bits: int, block_size: int, zero_point: bool = False) -> NBits:
    """Round a float matrix [out, in] to the nearest of 2^bits values in each block, spread by `block_ranges`.

    Raises:
        RequestError: MatMulNBits does not support these bits or this block size.
    """
    check_format(bits, block_size)
    rows, columns = matrix.shape
    blocks = -(-columns // block_size)
    packed = np.empty((rows, blocks, block_size * bits // 8), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = np.empty((rows, blocks), np.uint8) if zero_point else None

    def quantize(start: int) -> None:
        part = slice(start, start + step)
        packed[part], scales[part], points = _round_blocks(to_blocks(matrix[part], block_size), bits, zero_point)
        if zeros is not None:
            zeros[part] = points

    # A few rows at a time fit into the processor's cache, which is three times as fast and needs little memory.
    step = max(1, ROUNDED_AT_ONCE // max(columns, 1))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(quantize, range(0, rows, step)))
    return NBits(packed, narrowed(scales), None if zeros is None else pack_bits(zeros, bits), bits, columns)


def stack(parts: Iterable[NBits], rows: int) -> NBits:
    """Return a matrix of `rows` rows made of consecutive slices of its rows, of which one at a time is in memory."""
    whole: dict[str, Any] = {}
    start = 0
    for part in parts:
        for name, value in vars(part).items():
            if not isinstance(value, np.ndarray):
                whole[name] = value
                continue
            if name not in whole:
                whole[name] = np.empty((rows, *value.shape[1:]), value.dtype)
            if whole[name].dtype != value.dtype:  # some scales fit into float16, these do not
                whole[name] = whole[name].astype(np.float32)
            whole[name][start : start + len(value)] = value
        start += len(part.packed)
    return NBits(**whole)


def _round_blocks(blocks: np.ndarray, bits: int, zero_point: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return packed values, scales and zero points of blocks float32 [rows, blocks, block_size]."""
    scales, zeros = block_ranges(blocks, bits, zero_point)
    scales = storable(scales)
    values = blocks / scales[..., None]
    np.rint(values, out=values)
    values += zeros[..., None] if zero_point else np.float32(1 << (bits - 1))  # a number is added faster
    np.clip(values, 0, (1 << bits) - 1, out=values)
    return pack_bits(values.astype(np.uint8), bits), scales, zeros


def block_ranges(blocks: np.ndarray, bits: int, zero_point: bool, shrink: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return scales and zero points, float32 [...], that spread 2^bits values over the range of each block.

    Symmetric: scale = max|w| / (2^(bits-1) - 1). With zero points: scale = (max - min) / (2^bits - 1), over a range
    that includes 0, and zero point = round(-min / scale).

    Args:
        blocks: float32 [..., block_size].
        bits: of a value.
        zero_point: whether blocks have zero points; without, all are 2^(bits-1).
        shrink: multiplies the range.
    """
    levels = 1 << bits
    low, high = blocks.min(-1), blocks.max(-1)
    if zero_point:
        low, high = np.minimum(low, 0) * np.float32(shrink), np.maximum(high, 0) * np.float32(shrink)
        scales = nonzero((high - low) / np.float32(levels - 1))
        return scales, np.clip(np.rint(-low / scales), 0, levels - 1)
    scales = nonzero(np.maximum(high, -low) * np.float32(shrink) / np.float32(levels // 2 - 1))
    return scales, np.full_like(scales, levels // 2)


def dequantize(matrix: NBits) -> np.ndarray:
    """Return the weights that the operator computes with, float32 [out, in]."""
    rows, blocks = matrix.scales.shape
    zeros = np.full((rows, blocks), matrix.first + (matrix.middle if matrix.minima is None else 0), np.uint8)
    if matrix.zero_points is not None:
        zeros = unpack_bits(matrix.zero_points, matrix.bits)[:, :blocks]
    values = unpack_bits(matrix.packed, matrix.bits).astype(np.float32) - zeros[..., None].astype(np.float32)
    values *= widened(matrix.scales)[..., None]
    if matrix.minima is not None:
        values -= widened(matrix.minima)[..., None]
    return values.reshape(rows, -1)[:, : matrix.columns]


def to_blocks(matrix: np.ndarray, block_size: int) -> np.ndarray:
    """Return float32 [out, blocks, block_size], zero-padded at the end of each row."""
    rows, columns = matrix.shape
    padding = -columns % block_size
    matrix = widen(matrix)
    if padding:
        matrix = np.pad(matrix, ((0, 0), (0, padding)))
    return matrix.reshape(rows, -1, block_size)


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack uint8 [..., n] values below 2^bits into uint8 [..., ceil(n · bits / 8)], the first in the lowest bits."""
    if bits == 8:
        return values
    per_byte = 8 // bits
    padding = -values.shape[-1] % per_byte
    if padding:
        values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, padding)])
    if bits == 4:  # two at once: a little-endian number is values[0] + 2⁸ · values[1]
        pairs = np.ascontiguousarray(values).view("<u2")
        return (pairs | pairs >> np.uint16(4)).astype(np.uint8)
    packed = values[..., ::per_byte].copy()
    for place in range(1, per_byte):
        packed |= values[..., place::per_byte] << np.uint8(bits * place)
    return packed


def unpack_bits(packed: np.ndarray, bits: int) -> np.ndarray:
    """Undo `pack_bits`. The padding stays."""
    if bits == 8:
        return packed
    per_byte = 8 // bits
    values = np.empty((*packed.shape[:-1], packed.shape[-1] * per_byte), np.uint8)
    for place in range(per_byte):
        values[..., place::per_byte] = (packed >> np.uint8(bits * place)) & np.uint8((1 << bits) - 1)
    return values


def check_format(bits: int, block_size: int) -> None:
    """Raise RequestError unless MatMulNBits supports the bits and the block size."""
    if bits not in BITS or block_size not in BLOCK_SIZES:
        raise RequestError(
            f"{bits} bits by {block_size} is not supported; use 2, 4 or 8 bits and blocks of 16, 32, 64, 128 or 256"
        )


def storable(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of blocks, float32 as they can be stored in float16; as they are if that would lose too much."""
    with np.errstate(over="ignore"):
        half = numbers.astype(np.float16).astype(np.float32)
    near = np.abs(half - numbers) <= np.abs(numbers) * np.float32(LOST_IN_HALF)
    return half if near.all() else numbers.astype(np.float32, copy=False)


def narrowed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of blocks as float16 if that is exact, else as float32."""
    with np.errstate(over="ignore"):
        half = numbers.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), numbers) else numbers.astype(np.float32, copy=False)


def nonzero(scales: np.ndarray) -> np.ndarray:
    """Return scales with 1 in place of 0, which is the scale of a block of zeros."""
    return np.where(scales == 0, np.float32(1), scales).astype(np.float32)
