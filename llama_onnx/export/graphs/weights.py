"""Prepares the tensors of a checkpoint for a graph: checks, slices, rearranges and rounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ModelDirectoryError, RequestError
from ..checkpoint import Checkpoint
from ..families.spec import DecoderSpec
from ..half import fits_half, narrow, to_half, widen
from ..nbits import NBits, quantize_rtn, stack
from ..packages import onnx
from .graph import Rows

FLOAT = np.float32
Arrange = Callable[[np.ndarray], np.ndarray]
SPARE = (8, 32)  # bits and block size where 'auto' has to round


@dataclass(frozen=True)
class Precision:
    """How matrices are stored: 'fp32', 'fp16', or 'auto': as the checkpoint stores them."""

    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.dtype not in ("fp32", "fp16", "auto"):
            raise RequestError(f"{self.dtype!r:.40} is not a precision; use auto, fast, fp32, fp16, int8 or int4")


def least_bytes(spec: DecoderSpec, dtype: str) -> int:
    """Return the bytes that matrices take at least on disk, without norms, rope tables and padding; 0 for 'auto'."""
    table = spec.vocab_size * spec.hidden_size * (1 if spec.tied_embeddings else 2)
    layers = spec.num_layers * sum(p.rows * p.columns for p in spec.projections.values())
    bits = {"fp32": (32, 32), "fp16": (16, 16), "int8": (8.125, 8.125), "int4": (5, 8.5)}  # with scales and minima
    of_layers, of_table = bits.get(dtype, (0, 0))
    return int(layers * of_layers + table * of_table) // 8


class Weights:
    """Tensors of a checkpoint in the precision of the export, after checking their shapes."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, report: Callable[[str], None]) -> None:
        """Args: checkpoint; precision of the matrices; report: called for tensors that float16 cannot hold."""
        self._checkpoint = checkpoint
        self._precision = precision
        self._report = report

    def begin(self, step: str | int, rope: Mapping[str, Sequence[onnx.TensorProto]]) -> None:
        """Prepare to build a shard, 'embed', 'head' or the number of a layer, which reads these rope tables."""

    def end(self, step: str | int) -> None:
        """Clean up after a shard has been built."""

    def embedding(self, name: str, shape: tuple[int, int]) -> Rows | NBits:
        """Return the embedding [vocab, hidden]: float32, or float16 if matrices are float16 or quantised."""
        return self._large(name, shape)

    def head(self, name: str, shape: tuple[int, int]) -> Rows | NBits:
        """Return the matrix [vocab, hidden] of the head; see `matrix`."""
        return self._large(name, shape)

    def _large(self, name: str, shape: tuple[int, int]) -> Rows | NBits:
        kept = self.kept(name, shape)
        if kept is not None:
            return kept
        if self._has_other_blocks(name):
            return stack((quantize_rtn(part, *SPARE) for part in self._parts(name, shape)), shape[0])
        return self.floats(name, shape)

    def floats(self, name: str, shape: tuple[int, int]) -> Rows:
        """Return a large table or matrix, read and converted a few rows at a time while it is written."""
        if self._is_wide(next(self._checkpoint.parts(name))):
            return Rows(shape, np.dtype(FLOAT), map(widen, self._parts(name, shape)))
        return half_rows(name, shape, lambda: self._parts(name, shape), self._report)

    def vector(self, name: str, size: int, rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of a vector of `size`, such as a norm weight or a bias, as float32, which is exact."""
        return self._read(name, (size,))[rows].astype(FLOAT)

    def table(self, name: str, shape: tuple[int, int], rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of a table to look rows up in: float32, or float16 if matrices are float16 or quantised."""
        array = self._read(name, shape)[rows]
        return widen(array) if self._is_wide(array) else to_half(name, array, self._report)

    def matrix(
        self,
        name: str,
        shape: tuple[int, int],
        rows: slice = slice(None),
        arrange_rows: Arrange | None = None,
        arrange_columns: Arrange | None = None,
    ) -> np.ndarray | NBits:
        """Return a matrix [out, in] for a product: `rows` of a tensor of `shape`, with its rows or columns rearranged.

        In 'auto', the integers of a quantised checkpoint are kept exactly, unless columns are rearranged.
        """
        arrange = arrange_rows or _as_is
        kept = self.kept(name, shape) if arrange_columns is None else None
        if kept is not None:
            return kept.rows(lambda part: arrange(part[rows]))
        array = arrange(self.table(name, shape, rows))
        if arrange_columns is not None:
            array = arrange_columns(array.T).T
        if self._has_other_blocks(name):
            return quantize_rtn(array, *SPARE)
        return np.ascontiguousarray(array)

    def kept(self, name: str, shape: tuple[int, ...], bits: int | None = None, minima: bool = False) -> NBits | None:
        """Return the integers of the checkpoint if they are wanted as they are: in 'auto', or if they have `bits`.

        Those with minima are wanted in 'auto', or with `minima`.
        """
        wanted = self._checkpoint.stored_bits(name) == bits if bits else self._precision.dtype == "auto"
        stored = self._checkpoint.quantized(name) if wanted else None
        if stored is None or (bits and stored.minima is not None and not minima):
            return None
        _check_shape(name, (len(stored.packed), stored.columns), shape)
        return stored

    def _is_wide(self, array: np.ndarray) -> bool:
        return self._precision.dtype == "fp32" or (self._precision.dtype == "auto" and array.dtype == FLOAT)

    def _has_other_blocks(self, name: str) -> bool:
        """Return whether a tensor is quantised, and cannot be kept as it is although it should; report it."""
        if self._precision.dtype != "auto" or not self._checkpoint.stored_bits(name):
            return False
        self._report(f"{name}: its blocks cannot be kept as they are; rounded to 8 bits")
        return True

    def _parts(self, name: str, shape: tuple[int, int]) -> Iterator[np.ndarray]:
        count = 0
        for part in self._checkpoint.parts(name):
            _check_shape(name, part.shape[1:], shape[1:])
            count += len(part)
            yield part
        _check_shape(name, (count, *shape[1:]), shape)

    def _read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = self._checkpoint.tensor(name)
        _check_shape(name, array.shape, shape)
        return array


def half_rows(
    name: str, shape: tuple[int, int], parts: Callable[[], Iterator[np.ndarray]], report: Callable[[str], None]
) -> Rows:
    """Return a matrix as float16, or as float32 if values would overflow, which is reported; see `to_half`.

    `parts` reads the matrix anew: once to look for such values, then to convert it.
    """
    fits = fits_half(name, parts(), report)
    return Rows(shape, np.dtype(np.float16 if fits else FLOAT), map(narrow if fits else widen, parts()))


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise ModelDirectoryError(
            f"checkpoint tensor {name} has shape {list(found)}, but config.json implies {list(wanted)}"
        )


def _as_is(array: np.ndarray) -> np.ndarray:
    return array
