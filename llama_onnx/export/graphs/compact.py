"""Block-quantised matrices in a weight file, and the standard operators that widen what is stored compactly.

MatMulNBits takes 2, 4 or 8 bits and a float32 scale for each block. On disk, values of 5 and 6 bits lie in two planes,
and scales are float16, or float16 times 8-bit factors. The nodes that widen them read constants only, so ONNX Runtime
runs them once, when it loads the shard. A lookup runs the same nodes on the rows that it has gathered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..nbits import BLOCK_SIZES, Levels, NBits, Numbers, unpack_bits
from ..packages import onnx
from .graph import Graph, WeightFile
from .stored import read_tensor

FLOAT = onnx.TensorProto.FLOAT
LOW_BITS = 4  # of a value in two planes
MOST_IN_PLANES = 64 << 20  # bytes of a matrix in 8 bits; joining the planes of a larger one takes too much memory
LAYER = r"^model\.layers\.\d+\."
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


class Widened:
    """Adds the nodes that widen a stored matrix, or rows of it."""

    def __init__(self, g: Graph, stored: StoredNBits, ids: str = "") -> None:
        """Widen everything, or the rows of `ids` [batch, sequence].

        The names of the nodes have no number of a layer, so that what layers of one kind fold has the same names.
        """
        self._name = f"/widened/{re.sub(LAYER, '', stored.stem)[:-1]}"
        self._g, self._stored = g, stored
        self._ids = ids
        self._lead = [0, 0] if ids else [0]  # dimensions that a Reshape keeps

    def values(self) -> str:
        """Return the values in their stored range, uint8 [rows, blocks, block_size]."""
        parts, size = self._stored.tensors, self._stored.block_size
        if "low" not in parts:
            return self._halves(self._part("qweight"), size)
        columns = self._stored.columns
        low = self._nibbles(self._part("low"), axis=len(self._lead))
        width = parts["high"].dims[1] * 8 // columns
        shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
        rows = self._node("Unsqueeze", "high_rows", self._part("high"), self._ints("axis", [len(self._lead)]))
        shifted = self._shift("high_shifted", rows, self._bytes("shifts", shifts), "RIGHT")
        high = self._node("BitwiseAnd", "high_bits", shifted, self._bytes("mask", np.array((1 << width) - 1)))
        high = self._reshape("high", high, [columns])
        placed = self._shift("high_placed", high, self._bytes("places", np.array(LOW_BITS)), "LEFT")
        return self._reshape("values", self._node("BitwiseOr", "values", low, placed), [self._stored.blocks, size])

    def scales(self) -> str:
        """Return the scales, float32 [rows, blocks]."""
        return self._numbers("scale", "scales")

    def minima(self) -> str:
        """Return the minima, float32 [rows, blocks]; '' if there are none."""
        return self._numbers("minimum", "minima") if self._stored.has_minima else ""

    def centred_minima(self, scales: str) -> str:
        """Return the minima for a kernel that takes the middle of the range for 0; '' if there are none."""
        minima = self.minima()
        if not minima:
            return ""
        middle = self._g.floats(f"{self._name}/middle", self._stored.middle)
        return self._node("Sub", "centred_minima", minima, self._node("Mul", "taken", scales, middle))

    def middles(self) -> str:
        """Return the middle of the range as the zero point of every block, uint8 [rows, blocks]."""
        middle = self._bytes("middle_byte", np.full((1, 1), self._stored.middle))
        return self._node("Expand", "middles", middle, self._ints("shape", [self._stored.rows, self._stored.blocks]))

    def floats(self, outputs: list[str]) -> str:
        """Return the weights, float32 [rows, in]."""
        stored, g, name = self._stored, self._g, self._name
        last = self._ints("last_axis", [len(self._lead) + 1])
        value = self._cast("values", self.values())
        minima = self.minima()
        if not minima:
            zeros = g.floats(f"{name}/middle", stored.middle)
            if "qzeros" in stored.tensors:
                zeros = self._cast("qzeros", self._points())
                zeros = self._node("Unsqueeze", "qzeros", zeros, last)
            value = self._node("Sub", "centred", value, zeros)
        value = self._node("Mul", "scaled", value, self._node("Unsqueeze", "scales", self.scales(), last))
        if minima:
            value = self._node("Sub", "moved", value, self._node("Unsqueeze", "minima", minima, last))
        padded = stored.blocks * stored.block_size
        shape = g.ints(f"{name}/shape", [*self._lead, padded])
        if padded == stored.columns:
            return g.node("Reshape", name, [value, shape], outputs)
        value = g.node("Reshape", name, [value, shape])
        bounds = [self._ints(part, [n]) for part, n in (("from", 0), ("to", stored.columns), ("on", len(self._lead)))]
        return g.node("Slice", name, [value, *bounds], outputs)

    def _points(self) -> str:
        """Return the zero points, uint8 [rows, blocks]."""
        points, bits = self._part("qzeros"), self._stored.bits
        if bits == 8:
            return points
        halves = self._halves(points, 2 * self._stored.tensors["qzeros"].dims[1], "qzeros")
        bounds = [
            self._ints(f"points_{part}", [n])
            for part, n in (("from", 0), ("to", self._stored.blocks), ("on", len(self._lead)))
        ]
        return self._g.node("Slice", f"{self._name}/qzeros", [halves, *bounds])

    def _halves(self, packed: str, size: int, place: str = "qweight") -> str:
        """Return neighbours that share a byte [..., size / 2], the first in the low bits, one by one [..., size]."""
        if self._stored.bits == 8:
            return packed
        axis = len(self._lead) + (place == "qweight")
        both = self._nibbles(packed, axis + 1, place, apart=True)
        return self._reshape(f"{place}_halves", both, [*([self._stored.blocks] if place == "qweight" else []), size])

    def _nibbles(self, packed: str, axis: int, place: str = "low", apart: bool = False) -> str:
        low = self._node("BitwiseAnd", f"{place}_low", packed, self._bytes("low_mask", np.array(15)))
        high = self._shift(f"{place}_high", packed, self._bytes("half", np.array(LOW_BITS)), "RIGHT")
        if apart:
            axes = self._ints(f"{place}_axis", [axis])
            low, high = (self._node("Unsqueeze", f"{place}_{n}", v, axes) for n, v in (("low", low), ("high", high)))
        return self._g.node("Concat", f"{self._name}/{place}", [low, high], axis=axis)

    def _numbers(self, short: str, long: str) -> str:
        parts = self._stored.tensors
        if long in parts:
            found = self._part(long)
            return found if parts[long].data_type == FLOAT else self._cast(long, found)
        groups = parts[f"{short}_base"].dims[1]
        base = self._cast(f"{short}_base", self._part(f"{short}_base"))
        base = self._node("Unsqueeze", f"{short}_base", base, self._ints(f"{short}_axis", [len(self._lead) + 1]))
        factors = self._cast(f"{short}_factors", self._part(f"{short}_factors"))
        factors = self._reshape(f"{short}_factors", factors, [groups, self._stored.blocks // groups])
        return self._reshape(long, self._node("Mul", long, base, factors), [self._stored.blocks])

    def _part(self, part: str) -> str:
        tensor = self._g.shared(self._stored.tensors[part])
        return self._g.node("Gather", f"{self._name}/{part}", [tensor, self._ids]) if self._ids else tensor

    def _node(self, op: str, name: str, *inputs: str) -> str:
        return self._g.node(op, f"{self._name}/{name}", inputs)

    def _cast(self, name: str, value: str) -> str:
        return self._g.node("Cast", f"{self._name}/{name}", [value], to=FLOAT)

    def _shift(self, name: str, value: str, by: str, direction: str) -> str:
        return self._g.node("BitShift", f"{self._name}/{name}", [value, by], direction=direction)

    def _reshape(self, name: str, value: str, shape: list[int]) -> str:
        return self._node("Reshape", name, value, self._ints(f"{name}_shape", [*self._lead, *shape]))

    def _ints(self, name: str, values: list[int]) -> str:
        return self._g.ints(f"{self._name}/{name}", values)

    def _bytes(self, name: str, values: np.ndarray) -> str:
        return self._g.constant(f"{self._name}/{name}", values.astype(np.uint8))


def once(g: Graph, name: str, make: Callable[[], str]) -> str:
    """Return the value `name` of a graph; `make` adds the nodes that compute it the first time."""
    return name if any(name in node.output for node in g.nodes) else make()
