"""The parts every family shares: builds the graphs of embed, one decoder layer, and head from a `DecoderSpec`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from llama_onnx.errors import ModelDirectoryError

from ..graph import MICROSOFT, Graph, WeightFile
from ..half import embedding_bytes, to_half
from ..nbits import ACCURACY_LEVEL, NBits, quantize_rtn
from ..readers import Checkpoint
from .spec import DecoderSpec

ROPE_FILE = "rope.bin"
EMBEDDING = "model.embed_tokens.weight"
FLOAT = np.float32


@dataclass(frozen=True)
class Precision:
    """How matrices are stored: 'fp32', 'fp16', or 'int8' and 'int4' rounded to nearest in blocks of `block_size`."""

    dtype: str = "fp32"
    block_size: int = 128

    @property
    def bits(self) -> int:
        """Bits of a quantised weight, 0 for the float types."""
        return {"int4": 4, "int8": 8}.get(self.dtype, 0)


class Weights:
    """Tensors of a checkpoint, checked against the shape the spec wants, in the precision of the export."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, report: Callable[[str], None]) -> None:
        """Args: checkpoint; precision of the matrices; report is told of tensors that float16 cannot hold."""
        self._checkpoint = checkpoint
        self._precision = precision
        self._report = report

    def vector(self, name: str, size: int) -> np.ndarray:
        """Return a float32 [size]: norm weights and biases stay exact."""
        return self._read(name, (size,)).astype(FLOAT, copy=False)

    def table(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        """Return float32 or float16 [rows, size] to look rows up in. Where matrices are quantised, float16."""
        array = self._read(name, shape)
        return (
            array.astype(FLOAT, copy=False) if self._precision.dtype == "fp32" else to_half(name, array, self._report)
        )

    def matrix(
        self, name: str, shape: tuple[int, int], arrange: Callable[[np.ndarray], np.ndarray] = lambda array: array
    ) -> np.ndarray | NBits:
        """Return [out, in] for a product, its rows or columns rearranged first."""
        if not self._precision.bits:
            return np.ascontiguousarray(arrange(self.table(name, shape)))
        matrix = arrange(self._read(name, shape).astype(FLOAT, copy=False))
        return quantize_rtn(matrix, self._precision.bits, self._precision.block_size)

    def _read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = self._checkpoint.tensor(name)
        if array.shape != shape:
            raise ModelDirectoryError(
                f"checkpoint tensor {name} has shape {list(array.shape)}, config.json makes it {list(shape)}"
            )
        return array


def expected_names(spec: DecoderSpec) -> frozenset[str]:
    """Return the names of all tensors that the graphs read."""
    names = {EMBEDDING, "model.norm.weight"} | (set() if spec.tied_embeddings else {"lm_head.weight"})
    for i in range(spec.num_layers):
        layer = f"model.layers.{i}."
        names |= {layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight"}
        for block, projections, bias in (
            ("self_attn.", ("q_proj", "k_proj", "v_proj", "o_proj"), spec.attention_bias),
            ("mlp.", ("gate_proj", "up_proj", "down_proj"), spec.mlp_bias),
        ):
            names |= {f"{layer}{block}{projection}.weight" for projection in projections}
            names |= {f"{layer}{block}{projection}.bias" for projection in projections if bias}
    return frozenset(names)


def write_rope(weights: WeightFile, spec: DecoderSpec) -> list[onnx.TensorProto]:
    """Write the tables of rotary embedding, float32 [context, head_dim / 2] each (Su et al. 2021, RoFormer).

    Computed in float32 throughout, as the reference implementations do: at long positions the rounding shows.
    """
    exponents = np.arange(0, spec.head_dim, 2, dtype=FLOAT) / FLOAT(spec.head_dim)
    frequencies = FLOAT(1) / np.power(FLOAT(spec.rope_theta), exponents)
    angles = np.outer(np.arange(spec.context_length, dtype=FLOAT), frequencies)
    angles = np.pad(angles, ((0, 0), (0, spec.cache_head_dim // 2 - angles.shape[1])))  # heads are padded, see `heads`
    return [weights.add("cos_cache", np.cos(angles)), weights.add("sin_cache", np.sin(angles))]


def build_embed(g: Graph, spec: DecoderSpec, weights: Weights) -> None:
    """input_ids int64 [batch, sequence] -> hidden float32 [batch, sequence, hidden_size]."""
    g.input("input_ids", np.int64, ["batch", "sequence"])
    table = weights.table(EMBEDDING, (spec.vocab_size, spec.hidden_size))
    name = g.weight(EMBEDDING, table, loaded_bytes=embedding_bytes(table, spec.context_length))
    if table.dtype == FLOAT:
        g.node("Gather", "/embed_tokens", [name, "input_ids"], ["hidden"])
    else:
        rows = g.node("Gather", "/embed_tokens", [name, "input_ids"])
        g.node("Cast", "/embed_tokens", [rows], ["hidden"], to=onnx.TensorProto.FLOAT)
    g.output("hidden", FLOAT, ["batch", "sequence", spec.hidden_size])


def build_layer(g: Graph, spec: DecoderSpec, weights: Weights, i: int, rope: list[onnx.TensorProto]) -> None:
    """One decoder layer: hidden, past keys and values -> hidden_out, present keys and values (bound onto the past)."""
    cache: list[int | str] = ["batch", spec.num_kv_heads, "capacity", spec.cache_head_dim]
    hidden = g.input("hidden", FLOAT, ["batch", "sequence", spec.hidden_size])
    for name in ("past_key", "past_value"):
        g.input(name, FLOAT, cache)
    g.input("seqlens_k", np.int32, ["batch"])
    g.input("total_sequence_length", np.int32, [1])

    normed = _norm(g, spec, weights, i, "input_layernorm", [hidden])
    attended = _attention(g, spec, weights, i, normed, rope)
    residual = f"/layers.{i}/residual"
    normed = _norm(g, spec, weights, i, "post_attention_layernorm", [attended, hidden], residual)
    mlp = _mlp(g, spec, weights, i, normed)
    g.node("Add", f"/layers.{i}/mlp/residual", [residual, mlp], ["hidden_out"])

    g.output("hidden_out", FLOAT, ["batch", "sequence", spec.hidden_size])
    g.output("present_key", FLOAT, cache)
    g.output("present_value", FLOAT, cache)


def build_head(g: Graph, spec: DecoderSpec, weights: Weights, tied: onnx.TensorProto | None) -> None:
    """hidden float32 [batch, sequence, hidden_size] -> logits float32 [batch, sequence, vocab].

    Args:
        tied: the embedding's initializer, where the head shares it.
    """
    g.input("hidden", FLOAT, ["batch", "sequence", spec.hidden_size])
    gamma = g.weight("model.norm.weight", weights.vector("model.norm.weight", spec.hidden_size))
    normed = _rms_norm(g, "/norm", ["hidden", gamma], spec.norm_epsilon)
    source = EMBEDDING if spec.tied_embeddings else "lm_head.weight"
    matrix = weights.matrix(source, (spec.vocab_size, spec.hidden_size)) if tied is None else tied
    _product(g, "/lm_head", normed, "lm_head.weight", matrix, ["logits"])
    g.output("logits", FLOAT, ["batch", "sequence", spec.vocab_size])


def _attention(g: Graph, spec: DecoderSpec, weights: Weights, i: int, normed: str, rope: list[onnx.TensorProto]) -> str:
    width, bias = spec.hidden_size, spec.attention_bias

    def heads(short: str, count: int, rotary: bool) -> str:
        return _linear(
            g, weights, i, f"self_attn.{short}_proj", normed, (count * spec.head_dim, width), bias,
            lambda array: pad_heads(array, count, spec, rotary),
        )  # fmt: skip

    inputs = [
        heads("q", spec.num_heads, True),
        heads("k", spec.num_kv_heads, True),
        heads("v", spec.num_kv_heads, False),
    ]
    name = f"/layers.{i}/attn"
    attended = g.node(
        "GroupQueryAttention",
        name,
        [*inputs, "past_key", "past_value", "seqlens_k", "total_sequence_length", *map(g.shared, rope)],
        [f"{name}/output", "present_key", "present_value"],
        domain=MICROSOFT,
        num_heads=spec.num_heads,
        kv_num_heads=spec.num_kv_heads,
        scale=spec.head_dim**-0.5,
        do_rotary=1,
    )
    return _linear(
        g, weights, i, "self_attn.o_proj", attended, (width, spec.num_heads * spec.head_dim), bias,
        lambda array: pad_heads(array.T, spec.num_heads, spec, False).T if array.ndim == 2 else array,
    )  # fmt: skip


def pad_heads(array: np.ndarray, heads: int, spec: DecoderSpec, rotary: bool) -> np.ndarray:
    """Widen the heads of [heads · head_dim, …] with zeros to the size the attention kernel takes.

    The halves that rotary embedding turns against each other stay half a head apart.
    """
    if spec.cache_head_dim == spec.head_dim:
        return array
    parts = 2 if rotary else 1
    rest = array.shape[1:]
    split = array.reshape(heads * parts, spec.head_dim // parts, *rest)
    wide = np.zeros((heads * parts, spec.cache_head_dim // parts, *rest), array.dtype)
    wide[:, : split.shape[1]] = split
    return wide.reshape(-1, *rest)


def _mlp(g: Graph, spec: DecoderSpec, weights: Weights, i: int, normed: str) -> str:
    wide, name = (spec.intermediate_size, spec.hidden_size), f"/layers.{i}/mlp/act"
    gate = _linear(g, weights, i, "mlp.gate_proj", normed, wide, spec.mlp_bias)
    up = _linear(g, weights, i, "mlp.up_proj", normed, wide, spec.mlp_bias)
    silu = g.node("Mul", name, [gate, g.node("Sigmoid", name, [gate])])
    gated = g.node("Mul", f"/layers.{i}/mlp", [silu, up])
    return _linear(g, weights, i, "mlp.down_proj", gated, wide[::-1], spec.mlp_bias)


def _norm(
    g: Graph, spec: DecoderSpec, weights: Weights, i: int, which: str, inputs: list[str], residual: str = ""
) -> str:
    """RMS norm of one input, or of the sum of two; the sum is then available as `residual`."""
    tensor = f"model.layers.{i}.{which}.weight"
    gamma = g.weight(tensor, weights.vector(tensor, spec.hidden_size))
    return _rms_norm(g, f"/layers.{i}/{which}", [*inputs, gamma], spec.norm_epsilon, residual)


def _rms_norm(g: Graph, name: str, inputs: list[str], epsilon: float, residual: str = "") -> str:
    """Zhang and Sennrich 2019: x / sqrt(mean(x²) + epsilon) · gamma."""
    if not residual:
        return g.node("SimplifiedLayerNormalization", name, inputs, axis=-1, epsilon=epsilon, stash_type=1)
    outputs = [f"{name}/output", "", "", residual]
    return g.node("SkipSimplifiedLayerNormalization", name, inputs, outputs, domain=MICROSOFT, epsilon=epsilon)


def _linear(
    g: Graph,
    weights: Weights,
    i: int,
    projection: str,
    value: str,
    shape: tuple[int, int],
    bias: bool,
    arrange: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> str:
    """value · Wᵀ (+ bias): `model.layers.i.projection.weight` [out, in] and `.bias` [out], each rearranged first."""
    tensor = f"model.layers.{i}.{projection}"
    name = f"/layers.{i}/{projection.replace('self_attn', 'attn').replace('.', '/')}"
    product = _product(g, name, value, f"{tensor}.weight", weights.matrix(f"{tensor}.weight", shape, arrange))
    if not bias:
        return product
    vector = arrange(weights.vector(f"{tensor}.bias", shape[0]))
    return g.node("Add", name, [product, g.weight(f"{tensor}.bias", vector)])


def _product(
    g: Graph,
    name: str,
    value: str,
    tensor: str,
    matrix: np.ndarray | NBits | onnx.TensorProto,
    outputs: Sequence[str] = (),
) -> str:
    """value · matrixᵀ, float32 whatever the matrix [out, in] is stored in; a TensorProto is in a file already."""
    if isinstance(matrix, NBits):
        return _nbits_product(g, name, value, tensor, matrix, outputs)
    if isinstance(matrix, onnx.TensorProto):
        operand, half = g.shared(matrix, 4 * math.prod(matrix.dims)), matrix.data_type == onnx.TensorProto.FLOAT16
    else:
        operand, half = g.weight(tensor, matrix, 4 * matrix.size), matrix.dtype == np.float16
    if half:
        operand = g.node("Cast", name, [operand], to=onnx.TensorProto.FLOAT)
    return g.node("FusedMatMul", name, [value, operand], outputs, domain=MICROSOFT, transB=1)


def _nbits_product(g: Graph, name: str, value: str, tensor: str, matrix: NBits, outputs: Sequence[str]) -> str:
    stem = tensor.removesuffix("weight")
    inputs = [value, g.weight(stem + "qweight", matrix.packed, matrix.loaded_bytes)]
    inputs.append(g.weight(stem + "scales", matrix.scales, 0))
    if matrix.zero_points is not None:
        inputs.append(g.weight(stem + "qzeros", matrix.zero_points))
    return g.node(
        "MatMulNBits",
        name,
        inputs,
        outputs,
        domain=MICROSOFT,
        K=matrix.columns,
        N=len(matrix.packed),
        bits=matrix.bits,
        block_size=matrix.block_size,
        accuracy_level=ACCURACY_LEVEL,
    )
