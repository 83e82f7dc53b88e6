"""Graphs of ONNX Runtime's fused operators (domain com.microsoft), which are the fastest on CPUs."""

from __future__ import annotations

from collections.abc import Sequence

from ..families.spec import DecoderSpec, LayerSpec
from ..nbits import ACCURACY_LEVEL, NBits
from ..packages import onnx
from .compact import StoredNBits, write
from .floats import as_float
from .graph import MICROSOFT, Graph
from .heads import norm_heads
from .ops import Heads, Matrix
from .widened import Widened


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
        if isinstance(matrix, NBits):
            matrix = write(g.weights, tensor, matrix)
        if isinstance(matrix, StoredNBits):
            product = _nbits_product(g, name, value, matrix, last)
        else:
            operand = as_float(g, name, matrix)
            product = g.node("FusedMatMul", name, [value, operand], last, domain=MICROSOFT, transB=1)
        return g.node("Add", name, [product, bias], outputs) if bias else product

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


def _nbits_product(g: Graph, name: str, value: str, matrix: StoredNBits, outputs: Sequence[str]) -> str:
    """value · matrixᵀ. The minima of blocks are multiplied with the sums of the value over blocks, in float32."""
    parts, wide = matrix.tensors, Widened(g, matrix)
    g.loaded_bytes += matrix.loaded_bytes
    scales = wide.scales()
    minima = wide.centred_minima(scales)
    inputs = [value, wide.values() if "low" in parts else g.shared(parts["qweight"]), scales]
    if "qzeros" in parts:
        inputs.append(g.shared(parts["qzeros"]))
    elif "low" in parts:
        inputs.append(wide.middles())
    sizes = {"K": matrix.columns, "N": matrix.rows, "bits": matrix.bits, "block_size": matrix.block_size}
    product = g.node(
        "MatMulNBits", name, inputs, () if minima else outputs, domain=MICROSOFT, **sizes, accuracy_level=ACCURACY_LEVEL
    )
    if not minima:
        return product
    means, size = f"{value}/means_of_{matrix.block_size}", float(matrix.block_size)
    if not any(means in node.output for node in g.nodes):  # matrices with the same input share them
        _block_means(g, means, value, matrix)
    moved = g.node("FusedMatMul", f"{name}/minima", [means, minima], domain=MICROSOFT, transB=1, alpha=size)
    return g.node("Sub", name, [product, moved], outputs)


def _block_means(g: Graph, name: str, value: str, matrix: StoredNBits) -> str:
    """Return the means of a value over blocks. A pool needs no shape from a tensor, which a slot's file would hold."""
    padding = matrix.blocks * matrix.block_size - matrix.columns
    size = [matrix.block_size]
    return g.node(
        "AveragePool", name, [value], [name], kernel_shape=size, strides=size, pads=[0, padding], count_include_pad=1
    )
