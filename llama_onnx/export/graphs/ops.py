"""The two styles of graph: ONNX Runtime's own fused operators, or standard ONNX operators only.

What differs between them is behind the `Ops` protocol; `blocks` builds either. Both have the same inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..families.spec import DecoderSpec, LayerSpec
from ..nbits import NBits
from ..packages import onnx
from .graph import Graph


@dataclass(frozen=True)
class StoredNBits:
    """A quantised matrix [out, in] of another shard, by its tensors there. See `NBits`; `out` has no padding."""

    qweight: onnx.TensorProto
    scales: onnx.TensorProto
    qzeros: onnx.TensorProto | None
    bits: int
    block_size: int


# quantised values, such values or a tensor of another shard, or the name of a tensor
Matrix = NBits | StoredNBits | onnx.TensorProto | str


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values as they come from their projections, names of [batch, sequence, heads · head size].

    `norms` are the names of the weights that norm each head of queries and keys, if the model has those.
    """

    query: str
    key: str
    value: str
    norms: tuple[str, str] | None = None


class Ops(Protocol):
    """A style of graph. Every method adds nodes below `name` and returns the name of the value they compute."""

    flat: bool  # values are [batch · sequence, size] between `flatten` and `unflatten`, else [batch, sequence, size]

    def flatten(self, g: Graph, name: str, value: str, size: int) -> str:
        """Return the shape that the other methods work on."""

    def unflatten(self, g: Graph, name: str, value: str, like: str, size: int, outputs: Sequence[str]) -> str:
        """Return [batch, sequence, size], the first two from `like`."""

    def product(
        self, g: Graph, name: str, value: str, tensor: str, matrix: Matrix, bias: str, outputs: Sequence[str]
    ) -> str:
        """value · matrixᵀ (+ bias), float32 whatever the matrix [out, in] is stored in. `tensor` names it."""

    def lookup(self, g: Graph, name: str, ids: str, tensor: str, matrix: NBits, outputs: Sequence[str]) -> str:
        """Rows of a quantised matrix as float32 [batch, sequence, size] for ids [batch, sequence]."""

    def rms_norm(self, g: Graph, name: str, value: str, gamma: str, epsilon: float) -> str:
        """Zhang and Sennrich 2019: value / sqrt(mean(value²) + epsilon) · gamma."""

    def add_rms_norm(
        self, g: Graph, name: str, value: str, residual: str, gamma: str, epsilon: float, total: str
    ) -> str:
        """RMS norm of value + residual; the sum gets the name `total`."""

    def attention(
        self, g: Graph, name: str, heads: Heads, spec: DecoderSpec, layer: LayerSpec, rope: Sequence[onnx.TensorProto]
    ) -> str:
        """Causal attention with the layer's cache: also computes present_key and present_value."""
