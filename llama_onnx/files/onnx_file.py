"""Read the graph of an ONNX file without the `onnx` package: nodes, inputs, outputs and initializers, but no weights.

ONNX files are protocol buffers; https://github.com/onnx/onnx/blob/main/onnx/onnx.proto has the field numbers used here.
The file is mapped, and weights inside it are skipped, so a shard of several gigabytes takes no longer to read than one
with external weights.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ModelDirectoryError
from .protobuf import BYTES, VARINT, DamagedError, Reader, encode_bytes, encode_varint

# Name, bits of one value and numpy type (where it has one) by TensorProto.DataType.
DTYPES: dict[int, tuple[str, int, type | None]] = {
    1: ("float32", 32, np.float32), 2: ("uint8", 8, np.uint8), 3: ("int8", 8, np.int8), 4: ("uint16", 16, np.uint16),
    5: ("int16", 16, np.int16), 6: ("int32", 32, np.int32), 7: ("int64", 64, np.int64), 9: ("bool", 8, np.bool_),
    10: ("float16", 16, np.float16), 11: ("float64", 64, np.float64), 12: ("uint32", 32, np.uint32),
    13: ("uint64", 64, np.uint64), 16: ("bfloat16", 16, None), 17: ("float8e4m3fn", 8, None),
    18: ("float8e4m3fnuz", 8, None), 19: ("float8e5m2", 8, None), 20: ("float8e5m2fnuz", 8, None),
    21: ("uint4", 4, None), 22: ("int4", 4, None), 23: ("float4e2m1", 4, None), 25: ("uint2", 2, None),
    26: ("int2", 2, None),
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One operator. `domain` is '' for the standard ones; `numbers` holds its integer attributes, by name."""

    op_type: str
    name: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, int]


@dataclass(frozen=True)
class Value:
    """An input or output of a graph: its ONNX type and its shape, in which a str (perhaps '') is a free dimension."""

    name: str
    dtype: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Initializer:
    """A weight or constant.

    Attributes:
        name: the name of the tensor.
        dtype: its ONNX type; see `DTYPES`.
        shape: its dimensions.
        external_data: the entries that say where external data is (`location`, `offset`, `length`, `prepacked_0` …),
            as the file has them; empty for a tensor inside the file.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    external_data: dict[str, str]

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values (0 for types that are not in `DTYPES`)."""
        return -(-self.size * DTYPES.get(self.dtype, ("", 0, None))[1] // 8)

    @property
    def location(self) -> tuple[str, int, int]:
        """File name, offset and length in bytes of external data ('', 0, 0 for a tensor inside the file)."""
        if not self.external_data:
            return "", 0, 0
        offset, length = (
            _whole_number(self.external_data.get(key, default), f"{self.name}: {key}")
            for key, default in (("offset", "0"), ("length", str(self.nbytes)))
        )
        return self.external_data.get("location", ""), offset, length


@dataclass(frozen=True)
class Graph:
    """The main graph of a file, without the bodies of loops and branches."""

    nodes: tuple[Node, ...]
    initializers: tuple[Initializer, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_graph(path: str | Path) -> Graph:
    """Read the graph of an ONNX file.

    Raises:
        ModelDirectoryError: the file is missing, truncated or not an ONNX model.

    Example:
        >>> [tensor.external_data["location"] for tensor in read_graph("models/alpaca/head.onnx").initializers]
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _ModelReader(data).model()
    except DamagedError as error:
        raise ModelDirectoryError(f"{path}: not a valid ONNX file ({error}); copy or export the model again") from None
    except ValueError:  # mmap: nothing to map
        raise ModelDirectoryError(f"{path}: is empty; copy or export the model again") from None
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None


def relocate(
    path: Path, places: Mapping[str, tuple[str, int, int]], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> None:
    """Rewrite an ONNX file so that it takes the data of some initializers from other files.

    Args:
        path: the ONNX file.
        places: for each of these initializers, by name: a file beside the ONNX file, and the offset and length of the
            data in it, in bytes.
        shapes: the new shapes of those whose shape changes.

    Raises:
        ModelDirectoryError: the file is missing or not an ONNX model.
    """
    read_graph(path)  # raises if the file is damaged
    data = path.read_bytes()
    path.write_bytes(_Relocation(data, places, shapes or {}).model())


class _ModelReader(Reader):
    """Reads the messages of a model. Each method reads the message at [start, end)."""

    def model(self) -> Graph:
        fields = list(self.messages(0, len(self.data)))
        graphs = [field for field in fields if field.number == 7]
        if len(graphs) != 1:
            raise DamagedError("it has no graph" if not graphs else f"it has {len(graphs)} graphs")
        if not any(field.number == 8 for field in fields):  # written last: missing if the file is cut after the graph
            raise DamagedError("it has no operator set")
        return self._graph(graphs[0].start, graphs[0].end)

    def _graph(self, start: int, end: int) -> Graph:
        nodes: list[Node] = []
        initializers: list[Initializer] = []
        inputs: list[Value] = []
        outputs: list[Value] = []
        for field in self.messages(start, end):
            if field.number == 1:
                nodes.append(self._node(field.start, field.end))
            elif field.number == 5:
                initializers.append(self._initializer(field.start, field.end))
            elif field.number in (11, 12):
                (inputs if field.number == 11 else outputs).append(self._value(field.start, field.end))
        return Graph(tuple(nodes), tuple(initializers), tuple(inputs), tuple(outputs))

    def _node(self, start: int, end: int) -> Node:
        inputs: list[str] = []
        outputs: list[str] = []
        texts = {3: "", 4: "", 7: ""}
        numbers: dict[str, int] = {}
        for field in self.messages(start, end):
            if field.number in (1, 2):
                (inputs if field.number == 1 else outputs).append(self.text(field))
            elif field.number in texts:
                texts[field.number] = self.text(field)
            elif field.number == 5:
                parts = {part.number: part for part in self.fields(field.start, field.end)}
                if {1, 3} <= parts.keys():
                    number = parts[3].value
                    numbers[self.text(parts[1])] = number - (1 << 64) if number >> 63 else number
        return Node(texts[4], texts[3], texts[7], tuple(inputs), tuple(outputs), numbers)

    def _initializer(self, start: int, end: int) -> Initializer:
        name, dtype = "", 0
        shape: list[int] = []
        external: dict[str, str] = {}
        for field in self.fields(start, end):
            if field.number == 1:
                shape += [field.value] if field.wire == VARINT else self.packed(field)
            elif field.number == 2:
                dtype = field.value
            elif field.number == 8:
                name = self.text(field)
            elif field.number == 13 and field.wire == BYTES:
                entry = {part.number: self.text(part) for part in self.messages(field.start, field.end)}
                external[entry.get(1, "")] = entry.get(2, "")
        if any(size >= 1 << 40 for size in shape) or math.prod(shape) >= 1 << 48:
            raise DamagedError(f"tensor {name[:80]!r} has the shape {shape[:8]}")
        return Initializer(name, dtype, tuple(shape), external)

    def _value(self, start: int, end: int) -> Value:
        name, dtype = "", 0
        shape: tuple[int | str, ...] = ()
        for field in self.messages(start, end):
            if field.number == 1:
                name = self.text(field)
            elif field.number == 2:
                for kind in self.messages(field.start, field.end):
                    if kind.number == 1:
                        dtype, shape = self._tensor_type(kind.start, kind.end)
        return Value(name, dtype, shape)

    def _tensor_type(self, start: int, end: int) -> tuple[int, tuple[int | str, ...]]:
        dtype = 0
        shape: list[int | str] = []
        for field in self.fields(start, end):
            if field.number == 1 and field.wire == VARINT:
                dtype = field.value
            elif field.number == 2 and field.wire == BYTES:
                for dimension in self.messages(field.start, field.end):
                    size: int | str = ""
                    for part in self.fields(dimension.start, dimension.end):
                        if part.number in (1, 2):
                            size = part.value if part.wire == VARINT else self.text(part)
                    shape.append(size)
        return dtype, tuple(shape)


class _Relocation(_ModelReader):
    """Copies a model field by field, and replaces the external data, and perhaps shapes, of some initializers."""

    def __init__(
        self, data: bytes, places: Mapping[str, tuple[str, int, int]], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__(data)
        self._bytes = data
        self._places, self._shapes = places, shapes

    def model(self) -> bytes:  # type: ignore[override]
        return self._copy(0, len(self._bytes), 7, self._graph_copy)

    def _graph_copy(self, start: int, end: int) -> bytes:
        return self._copy(start, end, 5, self._initializer_copy)

    def _initializer_copy(self, start: int, end: int) -> bytes:
        name = self._initializer(start, end).name
        if name not in self._places:
            return self._bytes[start:end]
        shape = self._shapes.get(name)
        kept = self._copy(start, end, 13, lambda start, end: None, () if shape is None else (1,))
        if shape is not None:
            kept += encode_bytes(1, b"".join(map(encode_varint, shape)))
        for key, value in zip(("location", "offset", "length"), self._places[name], strict=True):
            kept += encode_bytes(13, encode_bytes(1, key.encode()) + encode_bytes(2, str(value).encode()))
        return kept

    def _copy(
        self, start: int, end: int, number: int, change: Callable[[int, int], bytes | None], drop: Sequence[int] = ()
    ) -> bytes:
        """Copy the message at [start, end) without the fields `drop`.

        `change` gives the new bytes of each field `number`, or None to drop it.
        """
        parts, place = [], start
        for field in self.fields(start, end):
            after = field.end if field.wire != VARINT else self.varint(self.varint(place, end)[1], end)[1]
            if field.number == number and field.wire == BYTES:
                changed = change(field.start, field.end)
                parts.append(b"" if changed is None else encode_bytes(number, changed))
            elif field.number not in drop:
                parts.append(self._bytes[place:after])
            place = after
        return b"".join(parts)


def _whole_number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelDirectoryError(f"initializer {what} is {text[:40]!r}, not a number; export the model again")
    return int(text)
