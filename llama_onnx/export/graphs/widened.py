"""The standard operators that widen a quantised matrix which is stored compactly.

The nodes read constants only, so ONNX Runtime runs them once, when it loads the shard. A lookup runs the same nodes on
the rows that it has gathered.
"""

from __future__ import annotations

import re

import numpy as np

from ..packages import onnx
from .compact import LOW_BITS, StoredNBits
from .graph import Graph

FLOAT = onnx.TensorProto.FLOAT
LAYER = r"^model\.layers\.\d+\."


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
