"""Supplies an export with quantised matrices, and with norms and biases to match."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import RequestError
from ..checkpoint import Checkpoint
from ..families.spec import EMBEDDING, HEAD, DecoderSpec
from ..graphs.graph import Rows
from ..graphs.heads import pad_heads, positions_of
from ..graphs.weights import Arrange, Precision, Weights
from ..nbits import NBits, dequantize, stack
from ..packages import onnx
from .bits import EMBED_NAME, FLOAT_BITS
from .bits import HEAD as HEAD_NAME
from .layer import LayerQuantizer, Quantised
from .methods.common import Format, slices
from .methods.registry import data_free
from .settings import Settings
from .table import FILE, Row, read_table, write_table

TWICE = "the weights are quantised already, and are rounded a second time; --dtype auto keeps them as they are"


class QuantizedWeights(Weights):
    """See `Weights`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: DecoderSpec,
        bits: Mapping[str, int],
        embedding_bits: int,
        settings: Settings,
        report: Callable[[str], None],
        folder: Path,
        quantizer: LayerQuantizer | None = None,
        shared_table: bool = False,
        keep: bool = False,
    ) -> None:
        """Prepare.

        Args:
            checkpoint: the checkpoint to quantise.
            spec: of the model.
            bits: by name of a matrix.
            embedding_bits: 4, 8, or 16 for float16.
            settings: the method and its parameters.
            report: called for tensors that float16 cannot hold.
            folder: holds the quant table while it grows, so that a resumed run can continue it.
            quantizer: for the methods that need the inputs of matrices, else None.
            shared_table: whether lm_head reads the embedding's table.
            keep: see `Options`.
        """
        super().__init__(checkpoint, Precision("fp16"), report)
        self._wide = Weights(checkpoint, Precision("fp32"), report)
        self._spec, self._bits, self._settings = spec, bits, settings
        self._embedding_bits = embedding_bits
        self._quantizer = quantizer
        self._shared_table, self._keep = shared_table, keep
        self._said = False
        self._now = Quantised()
        self._table = folder / FILE
        known = {*bits, EMBED_NAME}
        rows = read_table(self._table) if self._table.is_file() else []
        self._rows = {name: row for row in rows if (name := _name(row)) in known}

    @property
    def rows(self) -> list[Row]:
        """The quant table so far, in the order of computation."""
        return [self._rows[name] for name in (EMBED_NAME, *self._bits) if name in self._rows]

    def begin(self, step: str | int, rope: Mapping[str, Sequence[onnx.TensorProto]]) -> None:
        """See `Weights`."""
        self._now = Quantised()
        if self._quantizer and step != "embed" and not (step == "head" and self._shared_table):
            self._now = self._quantizer.quantize(step, rope)

    def end(self, step: str | int) -> None:
        """See `Weights`."""
        if not self._rows:  # an embedding in float16 has no row
            return
        temporary = self._table.with_suffix(".tmp")
        temporary.write_bytes(write_table(self.rows))
        temporary.replace(self._table)

    def embedding(self, name: str, shape: tuple[int, int]) -> Rows | NBits:
        """See `Weights`."""
        if self._embedding_bits == FLOAT_BITS:
            return super().embedding(name, shape)
        form = self._settings.form(self._embedding_bits)
        kept = self.kept(name, shape, form.bits, self._settings.minima) if self._keep else None
        if kept is not None:
            quantised, error = kept, 0.0
        else:
            self._say_if_again(name)
            quantised, error = self._by_parts(self._wide.floats(name, shape), form)
        self._note(EMBED_NAME, quantised, error, "weights")
        if self._shared_table:
            self._note(HEAD_NAME, quantised, error, "weights")
        return quantised

    def head(self, name: str, shape: tuple[int, int]) -> Rows | NBits:
        """See `Weights`."""
        bits = self._bits[HEAD_NAME]
        if bits == FLOAT_BITS:
            self._rows[HEAD_NAME] = Row(*_place(HEAD_NAME), FLOAT_BITS, 1, 0.0, "weights")
            return self.floats(name, shape)
        form = self._settings.form(bits)
        kept = self.kept(name, shape, bits, self._settings.minima) if self._keep else None
        if kept is not None:
            self._note(HEAD_NAME, kept, 0.0, "weights")
            return kept
        self._say_if_again(name)
        if self._quantizer:
            self._note(HEAD_NAME, form, self._now.errors[HEAD_NAME], "products")
            return self._now.matrices.pop(HEAD_NAME)
        quantised, error = self._by_parts(self._wide.floats(name, shape), form)
        self._note(HEAD_NAME, form, error, "weights")
        return quantised

    def vector(self, name: str, size: int, rows: slice = slice(None)) -> np.ndarray:
        """See `Weights`."""
        values = super().vector(name, size, rows)
        place, _, kind = name.rpartition(".")
        divisor = self._now.norms.get(place)
        if divisor is not None:
            offset = np.float32(self._spec.norm_offset if kind == "weight" else 0)
            return (values + offset) / divisor - offset
        if "_proj" in place:
            matrix = self._name_of(name, rows)
            divisor = self._now.rows.get(matrix)
            if divisor is not None:
                spec, heads = self._spec, self._spec.num_kv_heads
                padded = matrix.endswith("v_proj")
                places = positions_of(lambda a: pad_heads(a, heads, spec, False) if padded else a, len(values))
                return values / divisor[places]
        return values

    def matrix(
        self,
        name: str,
        shape: tuple[int, int],
        rows: slice = slice(None),
        arrange_rows: Arrange | None = None,
        arrange_columns: Arrange | None = None,
    ) -> np.ndarray | NBits:
        """See `Weights`."""
        matrix = self._name_of(name, rows)
        bits = self._bits[matrix]
        if bits == FLOAT_BITS:
            self._rows[matrix] = Row(*_place(matrix), FLOAT_BITS, 1, 0.0, "weights")
            return super().matrix(name, shape, rows, arrange_rows, arrange_columns)
        form = self._settings.form(bits)
        wanted = self._keep and arrange_columns is None
        kept = self.kept(name, shape, bits, self._settings.minima) if wanted else None
        if kept is not None:
            kept = kept.rows(lambda part: (arrange_rows or (lambda whole: whole))(part[rows]))
            self._note(matrix, kept, 0.0, "weights")
            return kept
        self._say_if_again(name)
        if self._quantizer:
            self._note(matrix, form, self._now.errors[matrix], "products")
            return self._now.matrices.pop(matrix)
        array = self._wide.matrix(name, shape, rows, arrange_rows, arrange_columns)
        assert isinstance(array, np.ndarray)
        quantised = data_free(self._settings.algo)(array, form)
        self._note(matrix, form, weight_error(array, quantised), "weights")
        return quantised

    def _say_if_again(self, name: str) -> None:
        """Say once that weights are rounded which are integers already."""
        if not self._said and self._checkpoint.stored_bits(name):
            self._said = True
            self._report(TWICE)

    def _by_parts(self, table: Rows, form: Format) -> tuple[NBits, float]:
        """Return a large table quantised a few rows at a time, and its `weight_error`."""
        squares = np.zeros(2)

        def quantised(part: np.ndarray) -> NBits:
            made = data_free(self._settings.algo)(part, form)
            squares[:] += _squares(part, made)
            return made

        whole = stack(map(quantised, table.parts), table.shape[0])
        return whole, float(squares[0] / squares[1]) if squares[1] else 0.0

    def _note(self, matrix: str, form: Format | NBits, error: float, of: str) -> None:
        if not np.isfinite(error):
            raise RequestError(f"{matrix}: quantising gave values that are not finite; the checkpoint may be damaged")
        self._rows[matrix] = Row(*_place(matrix), form.bits, form.block_size, error, of)

    def _name_of(self, name: str, rows: slice) -> str:
        """Return the name of the matrix in a tensor of the checkpoint, or in these rows of it."""
        if name in (EMBEDDING, HEAD):
            return HEAD_NAME
        layer, _, tensor = name.removeprefix("model.layers.").rpartition(".")[0].partition(".")
        first = rows.start or 0
        return next(
            f"{layer}.{projection}"
            for projection, p in self._spec.projections.items()
            if p.tensor == tensor and p.first == first
        )


def weight_error(matrix: np.ndarray, quantised: NBits) -> float:
    """Return the squared error of the weights, relative to the weights."""
    error, size = _squares(matrix, quantised)
    return error / size if size else 0.0


def _squares(matrix: np.ndarray, quantised: NBits) -> tuple[float, float]:
    """Return the sums of the squares of the errors, and of the weights."""
    error = size = 0.0
    for rows in slices(matrix.shape):
        near = dequantize(quantised.rows(lambda array, rows=rows: array[rows]))  # type: ignore[misc]
        error += float(np.square(near - matrix[rows]).sum(dtype=np.float64))
        size += float(np.square(matrix[rows]).sum(dtype=np.float64))
    return error, size


def _place(matrix: str) -> tuple[str, str]:
    layer, _, tensor = matrix.partition(".")
    return (layer, tensor) if tensor else ("", matrix)


def _name(row: Row) -> str:
    return f"{row.layer}.{row.tensor}" if row.layer else row.tensor
