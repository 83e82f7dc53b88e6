"""Prepares the tensors of a checkpoint for a graph: checks, slices, rearranges and rounds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ModelDirectoryError
from ..checkpoint import Checkpoint
from ..families.spec import DecoderSpec
from ..half import to_half, widen
from ..nbits import NBits, quantize_rtn
from ..packages import onnx

FLOAT = np.float32
Arrange = Callable[[np.ndarray], np.ndarray]
TWICE = "the weights are quantised already and are rounded a second time, to {} bits; --dtype auto keeps them as they are"
KEPT_BLOCK = 32  # weights that share a scale where 'auto' has to round


@dataclass(frozen=True)
class Precision:
    """How matrices are stored.

    Attributes:
        dtype: 'fp32', 'fp16', 'int8' or 'int4' in blocks of `block_size`, or 'auto': as the checkpoint stores them.
        block_size: how many weights share a scale in int8 and int4.
    """

    dtype: str = "fp32"
    block_size: int = 128

    @property
    def bits(self) -> int:
        """Bits of a quantised weight; 0 for the float types and 'auto'."""
        return {"int4": 4, "int8": 8}.get(self.dtype, 0)


def least_bytes(spec: DecoderSpec, precision: Precision) -> int:
    """Return the bytes that the matrices of a model take on disk, without norms, rope tables and padding."""
    table = spec.vocab_size * spec.hidden_size
    layers = spec.num_layers * sum(p.rows * p.columns for p in spec.projections.values())
    if precision.dtype == "auto":
        return 0  # not known
    if not precision.bits:
        return (layers + table * (1 if spec.tied_embeddings else 2)) * (4 if precision.dtype == "fp32" else 2)
    return (layers + table) * precision.bits // 8 + 2 * table


class Weights:
    """Tensors of a checkpoint in the precision of the export, after checking their shapes."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, report: Callable[[str], None]) -> None:
        """Args: checkpoint; precision of the matrices; report: called for tensors that float16 cannot hold."""
        self._checkpoint = checkpoint
        self._precision = precision
        self._report = report
        self._said = False

    def begin(self, step: str | int, rope: Mapping[str, Sequence[onnx.TensorProto]]) -> None:
        """Prepare to build a shard, 'embed', 'head' or the number of a layer, which reads these rope tables."""

    def end(self, step: str | int) -> None:
        """Clean up after a shard has been built."""

    def embedding(self, name: str, shape: tuple[int, int]) -> np.ndarray | NBits:
        """Return the embedding [vocab, hidden]."""
        kept = self._kept(name, shape) if self._precision.dtype == "auto" else None
        return kept or self.table(name, shape)

    def vector(self, name: str, size: int, rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of a vector of `size`, such as a norm weight or a bias, as float32, which is exact."""
        return self._read(name, (size,))[rows].astype(FLOAT)

    def table(self, name: str, shape: tuple[int, int], rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of a table to look rows up in: float32, or float16 if matrices are float16 or quantised."""
        array, dtype = self._read(name, shape)[rows], self._precision.dtype
        as_wide = dtype == "fp32" or (dtype == "auto" and array.dtype == FLOAT)
        return widen(array) if as_wide else to_half(name, array, self._report)

    def matrix(
        self,
        name: str,
        shape: tuple[int, int],
        rows: slice = slice(None),
        arrange_rows: Arrange | None = None,
        arrange_columns: Arrange | None = None,
    ) -> np.ndarray | NBits:
        """Return a matrix [out, in] for a product: `rows` of a tensor of `shape`, with its rows or columns rearranged.

        Integers in the checkpoint that already have the wanted bits are kept exactly, unless columns are rearranged.
        """
        bits, block_size = self._precision.bits, self._precision.block_size
        kept = self._kept(name, shape) if arrange_columns is None else None
        if kept is not None:
            return kept.rows(lambda part: (arrange_rows or _as_is)(part[rows]))
        stored = self._checkpoint.stored_bits(name)
        if stored and self._precision.dtype == "auto":
            bits, block_size = 8, KEPT_BLOCK
            self._report(f"{name}: its blocks cannot be kept as they are; rounded to 8 bits")
        elif stored and 0 < bits <= stored and not self._said:
            self._said = True
            self._report(TWICE.format(bits))
        array = self._read(name, shape)[rows] if bits else self.table(name, shape, rows)
        array = (arrange_rows or _as_is)(array)
        if arrange_columns is not None:
            array = arrange_columns(array.T).T
        if bits:
            return quantize_rtn(array, bits, block_size)
        return np.ascontiguousarray(array)

    def _kept(self, name: str, shape: tuple[int, ...]) -> NBits | None:
        """Return the integers of the checkpoint if they are wanted as they are."""
        precision = self._precision
        if not precision.bits and precision.dtype != "auto":
            return None
        stored = self._checkpoint.quantized(name)
        if stored is None or (precision.bits and (stored.bits != precision.bits or not _plain(stored))):
            return None
        _check_shape(name, (len(stored.packed), stored.columns), shape)
        return stored

    def _read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = self._checkpoint.tensor(name)
        _check_shape(name, array.shape, shape)
        return array


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise ModelDirectoryError(
            f"checkpoint tensor {name} has shape {list(found)}, but config.json implies {list(wanted)}"
        )


def _plain(matrix: NBits) -> bool:
    """Return whether a matrix takes the bits of its kernel, and no more."""
    return matrix.minima is None and matrix.kept_bits is None


def _as_is(array: np.ndarray) -> np.ndarray:
    return array
