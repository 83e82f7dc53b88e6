"""Graphs of standard ONNX operators only (opset 21), for other runtimes and devices.

Matrices are stored [out, in], which Gemm accepts. Gemm needs two dimensions, so values are [batch · sequence, size]
outside of attention. Quantised matrices are stored [in, out], for a MatMul after a DequantizeLinear: ONNX Runtime turns
this pair into its own MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import RequestError
from ..families.spec import DecoderSpec, LayerSpec
from ..nbits import NBits, pack_bits, unpack_bits, widened
from ..packages import onnx
from .activations import softcap
from .compact import StoredNBits
from .floats import as_float
from .graph import Graph
from .heads import norm_heads
from .ops import Heads, Matrix

MASKED = float(np.finfo(np.float32).min)
INTEGERS = {4: onnx.TensorProto.INT4, 8: onnx.TensorProto.INT8}
UNSIGNED = {4: onnx.TensorProto.UINT4, 8: onnx.TensorProto.UINT8}


class OnnxOps:
    """See `Ops`."""

    flat = True

    def flatten(self, g: Graph, name: str, value: str, size: int) -> str:
        """See `Ops`."""
        return g.node("Reshape", f"{name}/flatten", [value, g.ints(f"{name}/flatten/shape", [-1, size])])

    def unflatten(self, g: Graph, name: str, value: str, like: str, size: int, outputs: Sequence[str]) -> str:
        """See `Ops`."""
        lengths = g.node("Shape", f"{name}/unflatten", [like], start=0, end=2)
        shape = g.node("Concat", f"{name}/unflatten", [lengths, g.ints(f"{name}/unflatten/size", [size])], axis=0)
        return g.node("Reshape", f"{name}/unflatten", [value, shape], outputs)

    def product(
        self, g: Graph, name: str, value: str, tensor: str, matrix: Matrix, bias: str, outputs: Sequence[str]
    ) -> str:
        """See `Ops`."""
        if isinstance(matrix, NBits):
            last = () if bias else outputs
            product = g.node("MatMul", name, [value, _dequantized(g, name, tensor, matrix)], last)
            return g.node("Add", name, [product, bias], outputs) if bias else product
        if isinstance(matrix, StoredNBits):
            raise RequestError(f"{tensor}: standard operators cannot share a quantised table; use the style 'ort'")
        inputs = [value, as_float(g, name, matrix)]
        return g.node("Gemm", name, [*inputs, bias] if bias else inputs, outputs, transB=1)

    def rms_norm(self, g: Graph, name: str, value: str, gamma: str, epsilon: float) -> str:
        """See `Ops`."""
        square = g.node("Pow", name, [value, g.floats(f"{name}/two", 2)])
        mean = g.node("ReduceMean", name, [square, g.ints(f"{name}/axis", [-1])], keepdims=1)
        root = g.node("Sqrt", name, [g.node("Add", name, [mean, g.floats(f"{name}/epsilon", epsilon)])])
        return g.node("Mul", name, [g.node("Div", name, [value, root]), gamma])

    def add_rms_norm(
        self, g: Graph, name: str, value: str, residual: str, gamma: str, epsilon: float, total: str
    ) -> str:
        """See `Ops`."""
        g.node("Add", f"{name}/residual", [value, residual], [total])
        return self.rms_norm(g, name, total, gamma, epsilon)

    def attention(
        self, g: Graph, name: str, heads: Heads, spec: DecoderSpec, layer: LayerSpec, rope: Sequence[onnx.TensorProto]
    ) -> str:
        """See `Ops`.

        Keys are not repeated for the query heads that share them. Instead, those query heads are stacked into one
        matrix [group · sequence, head size] for each key head.
        """
        size, keys = spec.cache_head_dim, spec.num_kv_heads
        places = _Places(g, name, layer.window)
        rows = places.positions if spec.ropes[layer.rope].switch_length is None else "rope_rows"
        axis = g.ints(f"{name}/head_axis", [2])
        tables = []
        for table in rope:
            found = g.node("Gather", f"{name}/{table.name}", [g.shared(table), rows])
            tables.append(g.node("Unsqueeze", f"{name}/{table.name}", [found, axis]))

        def split(short: str, value: str, count: int, gamma: str) -> str:
            per_head = g.ints(f"{name}/{short}/heads", [count, size])
            shape = g.node("Concat", f"{name}/{short}", [places.lengths, per_head], axis=0)
            value = g.node("Reshape", f"{name}/{short}", [value, shape])
            if gamma:
                value = self.rms_norm(g, f"{name}/{short}_norm", value, gamma, spec.norm_epsilon * norm_heads(spec)[1])
            if short != "v":
                value = _rotate(g, f"{name}/{short}/rope", value, tables, spec)
            return g.node("Transpose", f"{name}/{short}", [value], perm=[0, 2, 1, 3])

        q_norm, k_norm = heads.norms or ("", "")
        query = split("q", heads.query, spec.num_heads, q_norm)
        key = places.update("key", split("k", heads.key, keys, k_norm))
        value = places.update("value", split("v", heads.value, keys, ""))

        query = g.node("Mul", f"{name}/scale", [query, g.floats(f"{name}/scale", spec.attention_scale)])
        by_key_head = g.ints(f"{name}/by_key_head", [0, keys, -1, 0])
        by_head = g.ints(f"{name}/by_head", [0, spec.num_heads, -1, 0])
        query = g.node("Reshape", f"{name}/group", [query, by_key_head])
        transposed = g.node("Transpose", f"{name}/keys", [key], perm=[0, 1, 3, 2])
        scores = g.node("MatMul", f"{name}/scores", [query, transposed])
        if spec.attention_softcap:
            scores = softcap(g, f"{name}/softcap", scores, spec.attention_softcap)
        scores = g.node("Reshape", f"{name}/scores", [scores, by_head])
        masked = g.node("Where", f"{name}/mask", [places.mask(), scores, g.floats(f"{name}/masked", MASKED)])
        shares = g.node("Softmax", name, [masked], axis=-1)
        shares = g.node("Reshape", f"{name}/shares", [shares, by_key_head])
        sums = g.node("MatMul", f"{name}/sums", [shares, value])
        sums = g.node("Reshape", f"{name}/sums", [sums, by_head])
        joined = g.node("Transpose", f"{name}/join", [sums], perm=[0, 2, 1, 3])
        width = g.ints(f"{name}/join/shape", [-1, spec.num_heads * size])
        return g.node("Reshape", f"{name}/join", [joined, width])


class _Places:
    """The positions of a pass in the cache, and which keys each token attends to."""

    def __init__(self, g: Graph, name: str, window: int | None) -> None:
        """Add the nodes that compute lengths int64 [2] (batch, sequence) and positions int64 [batch, sequence]."""
        self._g, self._name, self._window = g, f"{name}/positions", window
        name = self._name
        zero, one = g.ints(f"{name}/zero", [0]), g.ints(f"{name}/one", [1])
        self.lengths = g.node("Shape", f"{name}/lengths", ["hidden"], start=0, end=2)
        count = g.node("Shape", f"{name}/count", ["hidden"], start=1, end=2)
        last = g.node("Cast", f"{name}/last", ["seqlens_k"], to=onnx.TensorProto.INT64)
        end = g.node("Add", f"{name}/end", [last, one])
        # A prompt shorter than others of its batch is padded on the right, so it starts at 0 too.
        past = g.node("Max", f"{name}/past", [g.node("Sub", f"{name}/past", [end, count]), zero])
        first = g.node("Unsqueeze", f"{name}/past", [past, one])
        self.positions = g.node("Add", name, [first, self._range("new", zero, count)])
        total = g.node("Cast", f"{name}/total", ["total_sequence_length"], to=onnx.TensorProto.INT64)
        self._seen = (zero, total)
        if window is not None:  # keys before the window of the first new token are not read
            earliest = g.node("ReduceMin", f"{name}/window", [past], keepdims=1)
            start = g.node("Sub", f"{name}/window", [earliest, g.ints(f"{name}/reach", [window - 1])])
            self._seen = (g.node("Max", f"{name}/window", [start, zero]), total)

    def update(self, which: str, new: str) -> str:
        """Write new keys or values [batch, heads, sequence, size] into the cache and return those attended to.

        ScatterElements copies past to present unless both are the same buffer, and nothing else reads past. So if both
        are bound to the same memory, the cache is updated in place.
        """
        g, name = self._g, f"{self._name}/{which}"
        axes = g.ints(f"{name}/axes", [1, 3])
        rows = g.node("Unsqueeze", name, [self.positions, axes])
        rows = g.node("Expand", name, [rows, g.node("Shape", name, [new])])
        present = g.node("ScatterElements", name, [f"past_{which}", rows, new], [f"present_{which}"], axis=2)
        return g.node("Slice", name, [present, *self._seen, g.ints(f"{name}/axis", [2])])

    def mask(self) -> str:
        """Return bool [batch, 1, sequence, keys], true where a token attends to a key."""
        g, name = self._g, f"{self._name}/mask"
        keys = self._range("keys", *self._seen)
        own = g.node("Unsqueeze", name, [self.positions, g.ints(f"{name}/axes", [1, 3])])
        seen = g.node("LessOrEqual", name, [keys, own])
        if self._window is not None:
            edge = g.node("Sub", name, [own, g.ints(f"{name}/window", [self._window])])
            seen = g.node("And", name, [seen, g.node("Greater", name, [keys, edge])])
        return seen

    def _range(self, name: str, start: str, end: str) -> str:
        g, name = self._g, f"{self._name}/{name}"
        bounds = [g.node("Squeeze", f"{name}/{which}", [value]) for which, value in (("start", start), ("end", end))]
        return g.node("Range", name, [*bounds, g.ints(f"{name}/step", 1)])


def _rotate(g: Graph, name: str, value: str, tables: Sequence[str], spec: DecoderSpec) -> str:
    """Rotate the first two parts of each head [batch, sequence, heads, size]."""
    columns = spec.rope.columns
    rest = spec.cache_head_dim - 2 * columns
    sizes = [columns, columns, *([rest] if rest else [])]
    parts = [f"{name}/part_{i}" for i in range(len(sizes))]
    g.node("Split", name, [value, g.ints(f"{name}/sizes", sizes)], parts, axis=-1)
    (a, b), (cos, sin) = parts[:2], tables

    def product(place: str, part: str, table: str) -> str:
        return g.node("Mul", f"{name}/{place}", [part, table])

    first = g.node("Sub", f"{name}/first", [product("a_cos", a, cos), product("b_sin", b, sin)])
    second = g.node("Add", f"{name}/second", [product("b_cos", b, cos), product("a_sin", a, sin)])
    return g.node("Concat", name, [first, second, *parts[2:]], axis=-1)


def _dequantized(g: Graph, name: str, tensor: str, matrix: NBits) -> str:
    """Return float32 [in, out]. Values without zero points are stored as signed integers."""
    if matrix.bits not in INTEGERS:
        raise RequestError(f"{tensor}: {matrix.bits}-bit values have no standard operator; use the style 'ort'")
    if matrix.minima is not None:
        raise RequestError(f"{tensor}: blocks with minima have no standard operator; use the style 'ort'")
    stem, bits, middle = tensor.removesuffix("weight"), matrix.bits, 1 << (matrix.bits - 1)
    values = unpack_bits(matrix.packed, bits).reshape(len(matrix.packed), -1)[:, : matrix.columns].T
    signed = matrix.zero_points is None
    kind = INTEGERS[bits] if signed else UNSIGNED[bits]
    if signed:
        values = values ^ np.uint8(middle)  # q - 2^(bits - 1) as two's complement
    scales = widened(matrix.scales)
    blocks = scales.shape[1]
    inputs = [
        g.packed_weight(stem + "qweight", kind, values.shape, _pack(values, bits), matrix.loaded_bytes),
        g.weight(stem + "scales", scales.T, 0),
    ]
    if matrix.zero_points is not None:
        zeros = unpack_bits(matrix.zero_points, bits)[:, :blocks].T
        inputs.append(g.packed_weight(stem + "qzeros", kind, zeros.shape, _pack(zeros, bits), 0))
    return g.node("DequantizeLinear", name, inputs, axis=0, block_size=matrix.block_size)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    return pack_bits(np.ascontiguousarray(values).reshape(-1) & np.uint8((1 << bits) - 1), bits)
