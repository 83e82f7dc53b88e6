"""The two styles of graph: ONNX Runtime's own fused operators, or standard ONNX operators only.

They differ only behind the `Ops` protocol, which `blocks` builds on, and have the same inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..families.spec import DecoderSpec, LayerSpec
from ..nbits import NBits
from ..packages import onnx
from .compact import StoredNBits
from .graph import Graph

# a quantised matrix, one in another shard, a float tensor in another shard, or the name of a tensor of this graph
Matrix = NBits | StoredNBits | onnx.TensorProto | str


@dataclass(frozen=True)
class Heads:
    """Names of queries, keys and values as their projections return them, [batch, sequence, heads · head size].

    `norms` names the weights of the norms on each head of queries and keys, if the model has such norms.
    """

    query: str
    key: str
    value: str
    norms: tuple[str, str] | None = None


class Ops(Protocol):
    """A style of graph. Every method adds nodes under `name` and returns the name of their result."""

    flat: bool  # values are [batch · sequence, size] between `flatten` and `unflatten`, else [batch, sequence, size]

    def flatten(self, g: Graph, name: str, value: str, size: int) -> str:
        """Bring a value [batch, sequence, size] into the shape that the other methods work on."""

    def unflatten(self, g: Graph, name: str, value: str, like: str, size: int, outputs: Sequence[str]) -> str:
        """Undo `flatten`: return [batch, sequence, size], with batch and sequence taken from `like`."""

    def product(
        self, g: Graph, name: str, value: str, tensor: str, matrix: Matrix, bias: str, outputs: Sequence[str]
    ) -> str:
        """value · matrixᵀ (+ bias) in float32, however the matrix [out, in] is stored. `tensor` is its name."""

    def rms_norm(self, g: Graph, name: str, value: str, gamma: str, epsilon: float) -> str:
        """Zhang and Sennrich 2019: value / sqrt(mean(value²) + epsilon) · gamma."""

    def add_rms_norm(
        self, g: Graph, name: str, value: str, residual: str, gamma: str, epsilon: float, total: str
    ) -> str:
        """RMS norm of value + residual. The sum is named `total`."""

    def attention(
        self, g: Graph, name: str, heads: Heads, spec: DecoderSpec, layer: LayerSpec, rope: Sequence[onnx.TensorProto]
    ) -> str:
        """Causal attention with the layer's cache. Also outputs present_key and present_value."""
