"""Matrices of floats, which both styles of graph compute with in float32."""

from __future__ import annotations

import math

from ..packages import onnx
from .graph import Graph


def as_float(g: Graph, name: str, matrix: onnx.TensorProto | str) -> str:
    """Return a matrix as float32: a tensor of the graph, given by name, or one in the file of another shard."""
    if isinstance(matrix, onnx.TensorProto):
        matrix = g.shared(matrix, 4 * math.prod(matrix.dims))
    half = next(t for t in g.initializers if t.name == matrix).data_type == onnx.TensorProto.FLOAT16
    return g.node("Cast", name, [matrix], to=onnx.TensorProto.FLOAT) if half else matrix
