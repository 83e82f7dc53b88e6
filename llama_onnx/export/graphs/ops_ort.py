"""Graphs of ONNX Runtime's fused operators (domain com.microsoft), which are the fastest on CPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...errors import RequestError
from ..families.spec import DecoderSpec, LayerSpec
from ..nbits import ACCURACY_LEVEL, LOADED_BYTES_OF_BLOCK, NBits
from ..packages import onnx
from .floats import as_float
from .graph import MICROSOFT, Graph
from .heads import norm_heads
from .ops import Heads, Matrix, StoredNBits


class OrtOps:
    """See `Ops`."""

    flat = False

    def flatten(self, g: Graph, name: str, value: str, size: int) -> str:
        """See `Ops`: these operators take [batch, sequence, size]."""
        return value

    def unflatten(self, g: Graph, name: str, value: str, like: str, size: int, outputs: Sequence[str]) -> str:
        """See `Ops`."""
        return value

    def product(
        self, g: Graph, name: str, value: str, tensor: str, matrix: Matrix, bias: str, outputs: Sequence[str]
    ) -> str:
        """See `Ops`."""
        last = () if bias else outputs
        if isinstance(matrix, StoredNBits):
            product = _stored_product(g, name, value, matrix, last)
        elif isinstance(matrix, NBits):
            product = _nbits_product(g, name, value, tensor, matrix, last)
        else:
            operand = as_float(g, name, matrix)
            product = g.node("FusedMatMul", name, [value, operand], last, domain=MICROSOFT, transB=1)
        return g.node("Add", name, [product, bias], outputs) if bias else product

    def lookup(self, g: Graph, name: str, ids: str, tensor: str, matrix: NBits, outputs: Sequence[str]) -> str:
        """See `Ops`."""
        if matrix.bits == 2:
            raise RequestError("an embedding has 4 or 8 bits, not 2")
        stem = tensor.removesuffix("weight")
        packed = matrix.packed.reshape(len(matrix.packed), -1)[:, : matrix.columns * matrix.bits // 8]
        inputs = [g.weight(stem + "qweight", packed), ids, g.weight(stem + "scales", matrix.scales)]
        if matrix.zero_points is not None:
            inputs.append(g.weight(stem + "qzeros", matrix.zero_points))
        sizes = {"bits": matrix.bits, "block_size": matrix.block_size, "gather_axis": 0, "quantize_axis": 1}
        return g.node("GatherBlockQuantized", name, inputs, outputs, domain=MICROSOFT, **sizes)

    def rms_norm(self, g: Graph, name: str, value: str, gamma: str, epsilon: float) -> str:
        """See `Ops`."""
        return g.node("SimplifiedLayerNormalization", name, [value, gamma], axis=-1, epsilon=epsilon, stash_type=1)

    def add_rms_norm(
        self, g: Graph, name: str, value: str, residual: str, gamma: str, epsilon: float, total: str
    ) -> str:
        """See `Ops`."""
        outputs = [f"{name}/output", "", "", total]
        inputs = [value, residual, gamma]
        return g.node("SkipSimplifiedLayerNormalization", name, inputs, outputs, domain=MICROSOFT, epsilon=epsilon)

    def attention(
        self, g: Graph, name: str, heads: Heads, spec: DecoderSpec, layer: LayerSpec, rope: Sequence[onnx.TensorProto]
    ) -> str:
        """See `Ops`."""
        inputs = [heads.query, heads.key, heads.value]
        if heads.norms:
            for place, (short, count) in enumerate((("q", spec.num_heads), ("k", spec.num_kv_heads))):
                norm = f"{name}/{short}_norm"
                inputs[place] = self._head_norm(g, norm, inputs[place], heads.norms[place], count, spec)
        inputs += ["past_key", "past_value", "seqlens_k", "total_sequence_length", *map(g.shared, rope)]
        if spec.ropes[layer.rope].switch_length is not None:
            inputs.append("rope_rows")
        return g.node(
            "GroupQueryAttention",
            name,
            inputs,
            [f"{name}/output", "present_key", "present_value"],
            domain=MICROSOFT,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            scale=spec.attention_scale,
            do_rotary=1,
            softcap=spec.attention_softcap,
            local_window_size=layer.window or -1,
        )

    def _head_norm(self, g: Graph, name: str, value: str, gamma: str, count: int, spec: DecoderSpec) -> str:
        apart = g.ints(f"{name}/heads", [0, 0, count, spec.cache_head_dim])
        together = g.ints(f"{name}/width", [0, 0, count * spec.cache_head_dim])
        split = g.node("Reshape", f"{name}/split", [value, apart])
        normed = self.rms_norm(g, name, split, gamma, spec.norm_epsilon * norm_heads(spec)[1])
        return g.node("Reshape", f"{name}/join", [normed, together])


def _nbits_product(g: Graph, name: str, value: str, tensor: str, matrix: NBits, outputs: Sequence[str]) -> str:
    stem = tensor.removesuffix("weight")
    inputs = [value, g.weight(stem + "qweight", matrix.packed, matrix.loaded_bytes)]
    inputs.append(g.weight(stem + "scales", matrix.scales, 0))
    if matrix.zero_points is not None:
        inputs.append(g.weight(stem + "qzeros", matrix.zero_points))
    sizes = {"K": matrix.columns, "N": len(matrix.packed), "bits": matrix.bits, "block_size": matrix.block_size}
    return g.node("MatMulNBits", name, inputs, outputs, domain=MICROSOFT, **sizes, accuracy_level=ACCURACY_LEVEL)


def _stored_product(g: Graph, name: str, value: str, matrix: StoredNBits, outputs: Sequence[str]) -> str:
    """Multiply with the bytes that `lookup` reads as rows, in the shape that MatMulNBits needs."""
    rows, blocks = matrix.scales.dims
    packed = onnx.TensorProto()
    packed.CopyFrom(matrix.qweight)
    packed.dims[:] = [rows, blocks, matrix.block_size * matrix.bits // 8]
    loaded = math.prod(packed.dims) + LOADED_BYTES_OF_BLOCK * rows * blocks
    inputs = [value, g.shared(packed, loaded), g.shared(matrix.scales)]
    if matrix.qzeros is not None:
        inputs.append(g.shared(matrix.qzeros))
    sizes = {"K": blocks * matrix.block_size, "N": rows, "bits": matrix.bits, "block_size": matrix.block_size}
    return g.node("MatMulNBits", name, inputs, outputs, domain=MICROSOFT, **sizes, accuracy_level=ACCURACY_LEVEL)
