"""Quantises layers with the methods that need inputs (awq, gptq), with the weights of one layer in memory.

A layer is built in float32, with the inputs of its matrices as additional outputs. It runs on the hidden states that
the previous layers compute once they are quantised, and its matrices are quantised on the inputs they receive. The
scales that AWQ multiplies into a matrix are divided out of what computes its input: the norm before q, k, v and gate,
up; the rows of v before o; the rows of up before down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...config import Shard
from ..families.spec import FINAL_NORM, DecoderSpec
from ..graphs.blocks import ROPE_FILE, build_head, build_layer
from ..graphs.graph import Graph, WeightFile
from ..graphs.stored import external
from ..graphs.styles import get_ops
from ..graphs.weights import Weights
from ..nbits import NBits, dequantize, widened
from ..packages import onnx
from ..writer import ModelWriter
from .bits import FLOAT_BITS, HEAD
from .calibration import HiddenStates, InputStatistics, spread
from .methods import awq, gptq, rtn
from .methods.awq import AT_ONCE
from .methods.common import slices, threaded
from .settings import Settings

CLIP_TOKENS = 64  # on which a range is judged, as in the code of AWQ
ERROR_TOKENS = 128  # on which the error in the quant table is measured
RELU2 = "relu2"


@dataclass(frozen=True)
class Group:
    """Matrices that read the same input, and the part before them that is divided by AWQ's scales.

    That is the norm with the tensor `norm`, or the matrix `rows`. Its divisor is scale^`power`: the square root if its
    result is squared on the way.
    """

    names: tuple[str, ...]
    norm: str = ""
    rows: str = ""
    power: float = 1.0


@dataclass
class Quantised:
    """The result for one layer: matrices and relative squared errors by name, and the divisors of other tensors.

    `norms`: of norms, by tensor. `rows`: of biases, by the name of their matrix; its weights are already divided.
    """

    matrices: dict[str, NBits] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    norms: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)


def groups_of(spec: DecoderSpec, step: str | int) -> list[Group]:
    """Return the groups of layer `step`, or of the 'head', in the order of computation."""
    if step == "head":
        return [Group((HEAD,), FINAL_NORM)]
    layer = f"model.layers.{step}"
    before = "pre_feedforward_layernorm" if spec.sandwich_norms else "post_attention_layernorm"
    q, k, v, o = (f"{step}.self_attn.{x}_proj" for x in "qkvo")
    gate, up, down = (f"{step}.mlp.{x}_proj" for x in ("gate", "up", "down"))
    first = (gate, up) if spec.gated_mlp else (up,)
    linear = spec.gated_mlp or spec.activation == RELU2
    return [
        Group((q, k, v), f"{layer}.input_layernorm"),
        Group((o,), rows=v),
        Group(first, f"{layer}.{before}"),
        Group((down,), rows=up if linear else "", power=1.0 if spec.gated_mlp else 0.5),
    ]


class LayerQuantizer:
    """Quantises the layers in order, then the head."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Weights,
        bits: Mapping[str, int],
        settings: Settings,
        writer: ModelWriter,
        samples: Callable[[], np.ndarray],
    ) -> None:
        """Prepare.

        Args:
            spec: of the model.
            weights: its tensors in float32.
            bits: by name of a matrix.
            settings: the method and its parameters.
            writer: its finished shards compute the hidden states.
            samples: returns the calibration text, int64 [samples, length].
        """
        self._spec, self._weights, self._bits, self._settings = spec, weights, bits, settings
        self._writer = writer
        self._samples = samples
        self._states: HiddenStates | None = None

    def quantize(self, step: str | int, rope: Mapping[str, Sequence[onnx.TensorProto]]) -> Quantised:
        """Quantise layer `step`, or the 'head'. All previous shards must have been written."""
        self._states = self._states or HiddenStates(self._spec, self._samples(), self._writer.folder)
        done = self._spec.num_layers if step == "head" else int(step)
        while self._states.layers < done:
            passed = self._states.layers
            self._states.advance(self._writer.written("embed" if passed < 0 else f"decoder-{passed:02d}"))
        layer = FloatLayer(self._spec, self._weights, step, rope, self._writer.folder)
        result = Quantised()
        groups = [
            group
            for group in groups_of(self._spec, step)
            if any(self._bits[name] != FLOAT_BITS for name in group.names)
        ]
        hessian = self._settings.algo == "gptq"
        for together in [[group] for group in groups] if self._settings.per_matrix else [groups] if groups else []:
            widths = {layer.input_of(group.names[0]): layer.width(group.names[0]) for group in together}
            statistics = self._states.observe(layer.shard(widths), widths, hessian)
            for group in together:
                self._quantize_group(layer, group, statistics.pop(layer.input_of(group.names[0])), result)
        return result

    def _quantize_group(self, layer: FloatLayer, group: Group, statistics: InputStatistics, result: Quantised) -> None:
        names = [name for name in group.names if self._bits[name] != FLOAT_BITS]
        t = np.ones(statistics.width, np.float32)
        factor = None
        if self._settings.algo == "gptq":
            factor = gptq.factorise(statistics.take_hessian(), self._settings.damp, self._settings.descending)
        elif self._settings.algo != "awq_clip" and self._can_divide(group):
            forms = [self._settings.form(self._bits[name]) for name in names]
            matrices = [layer.matrix(name) for name in names]
            t = awq.find_scales(
                matrices, forms, statistics.mean_abs, statistics.sample, self._settings.alpha_step, self._shared(group)
            )
            self._divide(group, t, result)
        sample = statistics.sample
        for name in names:
            matrix = np.array(layer.matrix(name))
            quantised = self._quantize(matrix, name, t, statistics, factor)
            result.matrices[name] = quantised
            near = dequantize(quantised)
            near /= t
            result.errors[name] = output_error(matrix, near, sample[spread(len(sample), ERROR_TOKENS)])
            layer.matrix(name)[:] = near

    def _quantize(
        self, matrix: np.ndarray, name: str, t: np.ndarray, statistics: InputStatistics, factor: gptq.Factor | None
    ) -> NBits:
        settings = self._settings
        form = settings.form(self._bits[name])
        if factor is not None:
            return gptq.quantize(matrix, form, factor)
        scaled = matrix * t
        if settings.algo == "awq_lite":
            return rtn.quantize(scaled, form)
        sample = statistics.sample
        sample = sample[spread(len(sample), CLIP_TOKENS)]
        return awq.clip_ranges(scaled, form, sample / t, settings.clip_step, settings.clip_min)

    def _can_divide(self, group: Group) -> bool:
        """Return whether the input can be divided without another node: all matrices involved are quantised here."""
        concerned = (*group.names, *([group.rows] if group.rows else []))
        return bool(group.norm or group.rows) and all(self._bits[name] != FLOAT_BITS for name in concerned)

    def _shared(self, group: Group) -> np.ndarray | None:
        """Return the row of v behind each input of o if query heads share key heads, else None."""
        spec = self._spec
        if not group.rows.endswith("v_proj") or spec.num_heads == spec.num_kv_heads:
            return None
        size = spec.cache_head_dim
        heads = np.arange(spec.num_heads) // (spec.num_heads // spec.num_kv_heads)
        return (heads[:, None] * size + np.arange(size)).reshape(-1)

    def _divide(self, group: Group, t: np.ndarray, result: Quantised) -> None:
        if group.norm:
            result.norms[group.norm] = t
            return
        shared = self._shared(group)
        by_row = t if shared is None else t[np.unique(shared, return_index=True)[1]]
        by_row = by_row**group.power
        producer = result.matrices[group.rows]
        minima = None if producer.minima is None else widened(producer.minima) / by_row[:, None]
        result.matrices[group.rows] = replace(
            producer, scales=widened(producer.scales) / by_row[:, None], minima=minima
        )
        result.rows[group.rows] = by_row


class FloatLayer:
    """A layer or the head in float32, in temporary files. Its matrices can be read and replaced."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Weights,
        step: str | int,
        rope: Mapping[str, Sequence[onnx.TensorProto]],
        folder: Path,
    ) -> None:
        """Write layer `step`, or the 'head', to files in a folder that has the rope tables."""
        self._path, self._data = folder / "calibration.onnx", folder / "calibration.bin"
        with WeightFile(self._data) as file:
            self._graph = Graph("calibration", file)
            if step == "head":
                build_head(self._graph, spec, weights, None, get_ops("ort"))
            else:
                build_layer(self._graph, spec, weights, int(step), rope, get_ops("ort"))
        self._outputs = list(self._graph.outputs)
        tensors = {tensor.name: tensor for tensor in self._graph.initializers}
        self._inputs, self._tensors = {}, {}
        for node in self._graph.nodes:
            if node.op_type == "FusedMatMul":
                name = node.input[1].removeprefix("model.layers.").removesuffix(".weight")
                self._inputs[name], self._tensors[name] = node.input[0], tensors[node.input[1]]

    def input_of(self, name: str) -> str:
        """Return the name of the value that a matrix reads."""
        return self._inputs[name]

    def width(self, name: str) -> int:
        """Return the number of inputs of a matrix."""
        return int(self._tensors[name].dims[1])

    def matrix(self, name: str) -> np.ndarray:
        """Return a matrix of the graph, float32 [out, in]. Writing to it changes the file."""
        tensor = self._tensors[name]
        return np.memmap(self._data, np.float32, "r+", int(external(tensor, "offset")), tuple(tensor.dims))

    def shard(self, outputs: Mapping[str, int] | None = None) -> Shard:
        """Return the layer as a shard with additional outputs, given by names and widths."""
        self._graph.outputs = list(self._outputs)
        for name, width in (outputs or {}).items():
            self._graph.output(name, np.float32, ["batch", "sequence", width])
        self._graph.save(self._path)
        size = self._data.stat().st_size
        return Shard("calibration", self._path, (self._data.name, ROPE_FILE), self._graph.loaded_bytes, size)


def output_error(matrix: np.ndarray, near: np.ndarray, sample: np.ndarray) -> float:
    """Return the squared error of the products with a sample of inputs [tokens, in], relative to the products."""

    def measure(rows: slice) -> tuple[float, float]:
        wanted, error = matrix[rows] @ sample.T, (near[rows] - matrix[rows]) @ sample.T
        return float(np.square(error).sum(dtype=np.float64)), float(np.square(wanted).sum(dtype=np.float64))

    error, size = map(sum, zip(*threaded(measure, slices(matrix.shape, AT_ONCE)), strict=True))
    return error / size if size else 0.0
