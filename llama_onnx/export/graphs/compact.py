"""Block-quantised matrices in a weight file, as compact as they can be; see `widened` for how they are computed with.

MatMulNBits takes 2, 4 or 8 bits and a float32 scale for each block. On disk, values of 5 and 6 bits lie in two planes,
and scales are float16, or float16 times 8-bit factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..nbits import BLOCK_SIZES, Levels, NBits, Numbers, unpack_bits
from ..packages import onnx
from .graph import WeightFile
from .stored import read_tensor

LOW_BITS = 4  # of a value in two planes
MOST_IN_PLANES = 64 << 20  # bytes of a matrix in 8 bits; joining the planes of a larger one takes too much memory
Tensors = Mapping[str, onnx.TensorProto]


@dataclass(frozen=True)
class StoredNBits:
    """A quantised matrix [out, in] in a weight file; see `NBits`.

    Attributes:
        tensors: by part. Values: 'qweight' [out, blocks, bytes], or 'low' and 'high' [out, bytes]. Numbers of blocks:
            'scales' and 'minima' [out, blocks], or their 'scale_base', 'scale_factors' and so on; 'qzeros'.
        stem: what their names begin with.
        columns: the size of `in` before padding to whole blocks.
    """

    tensors: Tensors
    stem: str
    columns: int

    @property
    def rows(self) -> int:
        """The size of `out`."""
        return next(iter(self.tensors.values())).dims[0]

    @property
    def blocks(self) -> int:
        """Blocks in a row."""
        return (self.tensors.get("scales") or self.tensors["scale_factors"]).dims[1]

    @property
    def block_size(self) -> int:
        """How many weights share a scale."""
        if "low" in self.tensors:
            return self.columns // self.blocks
        sizes = [self.tensors["qweight"].dims[2] * 8 // bits for bits in (8, 4, 2)]
        return next(size for size in sizes if size in BLOCK_SIZES and -(-self.columns // size) == self.blocks)

    @property
    def bits(self) -> int:
        """Bits of a value that a kernel computes with."""
        return 8 if "low" in self.tensors else self.tensors["qweight"].dims[2] * 8 // self.block_size

    @property
    def middle(self) -> int:
        """The stored value that stands for 0 where there are neither zero points nor minima."""
        kept = self.bits
        if "low" in self.tensors:
            kept = LOW_BITS + self.tensors["high"].dims[1] * 8 // self.columns
        return 1 << (kept - 1)

    @property
    def has_minima(self) -> bool:
        """Whether blocks have minima."""
        return bool({"minima", "minimum_base"} & set(self.tensors))

    @property
    def loaded_bytes(self) -> int:
        """Bytes in memory once it is widened and packed for the CPU; see `NBits`."""
        shape = (self.rows, self.blocks)
        packed = np.broadcast_to(np.uint8(0), (*shape, self.block_size * self.bits // 8))
        numbers = np.broadcast_to(np.float32(0), shape)
        minima = numbers if self.has_minima else None
        return NBits(packed, numbers, None, self.bits, self.columns, minima).loaded_bytes


def write(weights: WeightFile, tensor: str, matrix: NBits) -> StoredNBits:
    """Write a matrix to a weight file; `tensor` is its name in the checkpoint."""
    matrix = matrix.trimmed()  # otherwise bits and block size could not be told from the shape
    stem = tensor.removesuffix("weight")
    tensors: dict[str, onnx.TensorProto] = {}

    def add(part: str, array: np.ndarray) -> None:
        tensors[part] = weights.add(stem + part, array)

    def add_numbers(short: str, long: str, numbers: Numbers) -> None:
        if isinstance(numbers, Levels):
            add(f"{short}_base", numbers.base)
            add(f"{short}_factors", numbers.factors)
        else:
            add(long, numbers)

    small = matrix.packed.nbytes <= MOST_IN_PLANES or matrix.minima is not None  # which count from the lowest value
    if matrix.kept_bits and matrix.columns % matrix.block_size == 0 and small:
        low, high = _planes(matrix)
        add("low", low)
        add("high", high)
    else:
        add("qweight", matrix.packed)
    add_numbers("scale", "scales", matrix.scales)
    if matrix.minima is not None:
        add_numbers("minimum", "minima", matrix.minima)
    if matrix.zero_points is not None:
        add("qzeros", matrix.zero_points)
    return StoredNBits(tensors, stem, matrix.columns)


def find(tensors: Tensors, tensor: str, columns: int) -> StoredNBits | None:
    """Return the matrix of this name among the initializers of a graph, None if it is not quantised."""
    stem = tensor.removesuffix("weight")
    parts = {name.removeprefix(stem): entry for name, entry in tensors.items() if name.startswith(stem)}
    quantised = {"qweight", "low"} & parts.keys()
    return StoredNBits(parts, stem, columns) if quantised else None


def products(graph: onnx.GraphProto) -> list[StoredNBits]:
    """Return the quantised matrices that a graph multiplies with."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    widths: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            columns = next(attribute.i for attribute in node.attribute if attribute.name == "K")
            widths[node.input[1]] = columns  # values in two planes have no padding, so their width is known
            widths |= {name: 2 * tensor.dims[1] for name, tensor in tensors.items() if name.endswith(".low")}
    found = [find(tensors, f"{name.rpartition('.')[0]}.weight", widths[name]) for name in tensors if name in widths]
    return [stored for stored in found if stored]


def read(stored: StoredNBits, folder: Path) -> NBits:
    """Return a matrix that was written to a file in `folder`.

    Raises:
        ModelDirectoryError: the file is missing or too short.
    """

    def part(name: str) -> np.ndarray:
        return read_tensor(stored.tensors[name], folder)

    def numbers(short: str, long: str) -> Numbers:
        if long in stored.tensors:
            return part(long)
        return Levels(part(f"{short}_base"), part(f"{short}_factors"))

    kept = stored.middle.bit_length()
    if "low" in stored.tensors:
        values = _joined(part("low"), part("high")) + np.uint8(128 - stored.middle)
        packed = values.reshape(stored.rows, stored.blocks, -1)
    else:
        packed = part("qweight")
    minima = numbers("minimum", "minima") if stored.has_minima else None
    points = part("qzeros") if "qzeros" in stored.tensors else None
    return NBits(
        packed,
        numbers("scale", "scales"),
        points,
        stored.bits,
        stored.columns,
        minima,
        kept if kept < stored.bits else None,
    )


def _joined(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Undo `_planes`: return the values [out, in]."""
    per_byte = 2 * low.shape[1] // high.shape[1]
    width = 8 // per_byte
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    tops = (high[:, None, :] >> shifts[:, None] & np.uint8((1 << width) - 1)).reshape(len(low), -1)
    return np.concatenate((low & 15, low >> 4), 1) | tops << np.uint8(LOW_BITS)


def _planes(matrix: NBits) -> tuple[np.ndarray, np.ndarray]:
    """Return the low 4 bits and the others, each [out, bytes]: a byte holds values from equal parts of a row."""
    values = unpack_bits(matrix.packed, matrix.bits).reshape(len(matrix.packed), -1) - np.uint8(matrix.first)
    first, second = np.split(values & np.uint8(15), 2, 1)
    width = (matrix.kept_bits or 8) - LOW_BITS
    high = np.zeros((len(values), values.shape[1] * width // 8), np.uint8)
    for place, part in enumerate(np.split(values >> np.uint8(LOW_BITS), 8 // width, 1)):
        high |= part << np.uint8(place * width)
    return first | second << np.uint8(LOW_BITS), high
