"""Compares the dequantised matrices of a candidate with those of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...config import ModelConfig, Shard
from ..families.spec import EMBEDDING, HEAD
from ..graphs.compact import StoredNBits, find, products, read
from ..graphs.stored import read_graph, read_tensor
from ..nbits import dequantize
from ..packages import onnx
from .metrics import BLOCK, Error

BINS = 120
RANGE = 5.0  # of the histograms, in standard deviations of the reference's tensor
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


@dataclass
class TensorError:
    """One matrix [out, in]: its name in the checkpoint, its shard, and the error of the candidate's values."""

    name: str
    shard: str
    error: Error = field(default_factory=Error)

    @property
    def role(self) -> str:
        """Its role in any layer: 'q_proj', 'down_proj', 'lm_head' …"""
        return self.name.removesuffix(".weight").split(".")[-1]


@dataclass
class WeightReport:
    """Errors of all matrices of a candidate, and by role the histograms of both models' values, int64 [BINS].

    Histograms range from -RANGE to RANGE standard deviations of the reference's matrix.
    """

    tensors: list[TensorError] = field(default_factory=list)
    histograms: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def compare_weights(reference: ModelConfig, candidates: Sequence[ModelConfig]) -> list[WeightReport]:
    """Compare all matrices with the same name and shape in both models, one in memory at a time.

    A quantiser may move scales from one matrix to another, as AWQ does. Such a candidate computes the same from
    different weights, so judge it by its outputs, not by these figures.
    """
    reports = [WeightReport() for _ in candidates]
    nothing = (np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))
    shards = (reference.embed, *reference.layers, reference.head)
    for place, shard in enumerate(shards):
        others = [dict(matrices((c.embed, *c.layers, c.head)[place])) for c in candidates]
        for name, matrix in matrices(shard):
            if not any(name in other for other in others):
                continue
            expected = matrix()
            spread = float(expected.std()) or 1.0
            counts = _histogram(expected, spread)
            for other, report in zip(others, reports, strict=True):
                found = other[name]() if name in other else expected[:0]
                if found.shape != expected.shape:
                    continue
                tensor = TensorError(name, shard.name)
                tensor.error.add(expected, found)
                report.tensors.append(tensor)
                first, second = report.histograms.get(tensor.role, nothing)
                report.histograms[tensor.role] = (first + counts, second + _histogram(found, spread))
    return reports


def _histogram(matrix: np.ndarray, spread: float) -> np.ndarray:
    """Count values in BINS between -RANGE and RANGE times the spread, three times as fast as `numpy.histogram`."""
    counts = np.zeros(BINS + 2, np.int64)  # including values below and above
    for block in np.array_split(matrix.reshape(-1), max(1, matrix.size // BLOCK)):
        places = block * np.float32(BINS / (2 * RANGE * spread)) + np.float32(BINS / 2 + 1)
        counts += np.bincount(np.fmax(np.fmin(places, BINS + 1), 0).astype(np.int32), minlength=BINS + 2)
    return counts[1:-1]


def matrices(shard: Shard) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield the name of each matrix or embedding of a shard, and a function that reads it as float32 [out, in].

    Raises:
        ModelDirectoryError: the file cannot be read.
    """
    folder = shard.path.parent
    graph = read_graph(shard.path)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    linear = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    for node in linear:
        packed = next((name for name in node.input[:2] if name in tensors), None)
        if packed is not None:  # before a MatMul it is [in, out]
            transposed = any(n.op_type == "MatMul" and node.output[0] in n.input for n in graph.node)
            yield _public_name(packed, shard), partial(_read_linear, node, tensors, folder, transposed)
    width = graph.output[0].type.tensor_type.shape.dim[-1].dim_value  # of the rows that an embedding looks up
    table = find(tensors, EMBEDDING, width) if shard.name == "embed" else None
    for stored in [*products(graph), *([table] if table else [])]:
        yield _public_name(f"{stored.stem}weight", shard), partial(_read_nbits, stored, folder)
    taken = {name for node in linear for name in node.input}
    for name, tensor in tensors.items():
        if len(tensor.dims) == 2 and tensor.data_type in FLOATS and name not in taken and name.endswith("weight"):
            yield _public_name(name, shard), partial(_read_plain, tensor, folder)


def _public_name(name: str, shard: Shard) -> str:
    """Return the name in the checkpoint. A head that shares the embedding has it under the embedding's name."""
    if name.endswith("qweight"):
        name = name.removesuffix("qweight") + "weight"
    return HEAD if shard.name == "head" and name == EMBEDDING else name


def _read_plain(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    return read_tensor(tensor, folder).astype(np.float32)


def _read_nbits(stored: StoredNBits, folder: Path) -> np.ndarray:
    return dequantize(read(stored, folder))


def _read_linear(
    node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], folder: Path, transposed: bool
) -> np.ndarray:
    values = _attributes(node)
    matrix, *others = (read_tensor(tensors[name], folder).astype(np.float32) for name in node.input if name in tensors)
    axis, size = values.get("axis", 1), values.get("block_size", 0)
    ends = tuple(slice(length) for length in matrix.shape)

    def widen(array: np.ndarray) -> np.ndarray:
        if size:  # one for each block
            return np.repeat(array, size, axis)[ends]
        return (
            np.expand_dims(array, 1 - axis % 2) if array.ndim == 1 else array
        )  # one for each row or column, or for all

    scales, *points = map(widen, others)
    matrix = (matrix - points[0] if points else matrix) * scales
    return np.ascontiguousarray(matrix.T) if transposed else matrix


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
