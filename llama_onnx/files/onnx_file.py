"""What an ONNX file says of itself, without the `onnx` package: its nodes, values and initializers, but no weights.

ONNX files are protocol buffers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto has the field numbers used here,
https://protobuf.dev/programming-guides/encoding/ the encoding. The file is mapped and what is not asked for is skipped,
so a shard of gigabytes costs no more than one with its weights outside. It may come from anywhere: every length is
checked against the part of the file it lies in.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ModelDirectoryError

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
MOST_FIELDS = 4_000_000  # of all messages read in one file; the largest graphs of single layers have a few thousand
MOST_TEXT = 1 << 16

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Node:
    """One operator. `domain` is '' for the standard ones; of its attributes the numbers are kept."""

    op_type: str
    name: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, int]
    floats: dict[str, float]


@dataclass(frozen=True)
class Value:
    """An input or output of a graph: an ONNX type, and sizes; a str (perhaps '') is a free dimension."""

    name: str
    dtype: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Initializer:
    """A weight or constant.

    Attributes:
        name: of the tensor.
        dtype: its ONNX type; see `DTYPES`.
        shape: its sizes.
        external_data: where it is outside the file (`location`, `offset`, `length`, `prepacked_0` … as the file has
            them), else empty.
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
        """Bytes of the values (0 for types that are not known here)."""
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
    """The outer graph of a file. Bodies of loops and branches are left out."""

    nodes: tuple[Node, ...]
    initializers: tuple[Initializer, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_graph(path: str | Path) -> Graph:
    """Read what an ONNX file says of itself.

    Raises:
        ModelDirectoryError: the file is missing, truncated or no ONNX model.

    Example:
        >>> [tensor.external_data["location"] for tensor in read_graph("models/alpaca/head.onnx").initializers]
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).model()
    except _DamagedError as error:
        raise ModelDirectoryError(f"{path}: not a whole ONNX file ({error}); copy or export the model again") from None
    except ValueError:  # mmap: nothing to map
        raise ModelDirectoryError(f"{path}: is empty; copy or export the model again") from None
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None


def relocate(path: Path, places: Mapping[str, tuple[str, int, int]]) -> None:
    """Rewrite an ONNX file so that the initializers named lie in other files.

    Args:
        path: of the ONNX file.
        places: by initializer, a file beside the ONNX file, and offset and length in it, in bytes.

    Raises:
        ModelDirectoryError: the file is missing or no ONNX model.
    """
    read_graph(path)  # it is whole
    data = path.read_bytes()
    path.write_bytes(_Relocation(data, places).model())


class _DamagedError(Exception):
    """What is wrong with the bytes."""


@dataclass(frozen=True)
class _Field:
    """One field of a message: its number and wire type, and a number, or the place of its bytes."""

    number: int
    wire: int
    value: int = 0
    start: int = 0
    end: int = 0


class _Reader:
    """Walks the messages in a mapped file. Each method reads the message at [start, end)."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self._left = MOST_FIELDS

    def model(self) -> Graph:
        fields = list(self._messages(0, len(self._data)))
        graphs = [field for field in fields if field.number == 7]
        if len(graphs) != 1:
            raise _DamagedError("no graph in it" if not graphs else f"{len(graphs)} graphs in it")
        if not any(field.number == 8 for field in fields):  # it comes last: a file cut after its graph lacks it
            raise _DamagedError("no operator set in it")
        return self._graph(graphs[0].start, graphs[0].end)

    def _graph(self, start: int, end: int) -> Graph:
        nodes: list[Node] = []
        initializers: list[Initializer] = []
        inputs: list[Value] = []
        outputs: list[Value] = []
        for field in self._messages(start, end):
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
        floats: dict[str, float] = {}
        for field in self._messages(start, end):
            if field.number in (1, 2):
                (inputs if field.number == 1 else outputs).append(self._text(field))
            elif field.number in texts:
                texts[field.number] = self._text(field)
            elif field.number == 5:
                parts = {part.number: part for part in self._fields(field.start, field.end)}
                if {1, 3} <= parts.keys():
                    number = parts[3].value
                    numbers[self._text(parts[1])] = number - (1 << 64) if number >> 63 else number
                if {1, 2} <= parts.keys() and parts[2].wire == FIXED32:
                    floats[self._text(parts[1])] = struct.unpack_from("<f", self._data, parts[2].start)[0]
        return Node(texts[4], texts[3], texts[7], tuple(inputs), tuple(outputs), numbers, floats)

    def _initializer(self, start: int, end: int) -> Initializer:
        name, dtype = "", 0
        shape: list[int] = []
        external: dict[str, str] = {}
        for field in self._fields(start, end):
            if field.number == 1:
                shape += [field.value] if field.wire == VARINT else self._packed(field)
            elif field.number == 2:
                dtype = field.value
            elif field.number == 8:
                name = self._text(field)
            elif field.number == 13 and field.wire == BYTES:
                entry = {part.number: self._text(part) for part in self._messages(field.start, field.end)}
                external[entry.get(1, "")] = entry.get(2, "")
        if any(size >= 1 << 40 for size in shape) or math.prod(shape) >= 1 << 48:
            raise _DamagedError(f"tensor {name[:80]!r} has the shape {shape[:8]}")
        return Initializer(name, dtype, tuple(shape), external)

    def _value(self, start: int, end: int) -> Value:
        name, dtype = "", 0
        shape: tuple[int | str, ...] = ()
        for field in self._messages(start, end):
            if field.number == 1:
                name = self._text(field)
            elif field.number == 2:
                for kind in self._messages(field.start, field.end):
                    if kind.number == 1:
                        dtype, shape = self._tensor_type(kind.start, kind.end)
        return Value(name, dtype, shape)

    def _tensor_type(self, start: int, end: int) -> tuple[int, tuple[int | str, ...]]:
        dtype = 0
        shape: list[int | str] = []
        for field in self._fields(start, end):
            if field.number == 1 and field.wire == VARINT:
                dtype = field.value
            elif field.number == 2 and field.wire == BYTES:
                for dimension in self._messages(field.start, field.end):
                    size: int | str = ""
                    for part in self._fields(dimension.start, dimension.end):
                        if part.number in (1, 2):
                            size = part.value if part.wire == VARINT else self._text(part)
                    shape.append(size)
        return dtype, tuple(shape)

    def _messages(self, start: int, end: int) -> Iterator[_Field]:
        return (field for field in self._fields(start, end) if field.wire == BYTES)

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        """Yield the fields of the message at [start, end)."""
        place = start
        while place < end:
            self._left -= 1
            if self._left < 0:
                raise _DamagedError(f"more than {MOST_FIELDS} fields")
            tag, place = self._varint(place, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise _DamagedError(f"field 0 at byte {place}")
            if wire == VARINT:
                value, place = self._varint(place, end)
                yield _Field(number, wire, value)
                continue
            if wire == BYTES:
                size, place = self._varint(place, end)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise _DamagedError(f"wire type {wire} at byte {place}")
            if size > end - place:
                raise _DamagedError(f"{size} bytes announced at byte {place}, {end - place} are there")
            yield _Field(number, wire, 0, place, place + size)
            place += size

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if place >= end:
                raise _DamagedError(f"ends within a number at byte {place}")
            byte = self._data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (1 << 64) - 1, place
        raise _DamagedError(f"a number of more than 10 bytes at byte {place}")

    def _packed(self, field: _Field) -> list[int]:
        if field.end - field.start > 1024:
            raise _DamagedError(f"a shape of {field.end - field.start} bytes")
        values, place = [], field.start
        while place < field.end:
            value, place = self._varint(place, field.end)
            values.append(value)
        return values

    def _text(self, field: _Field) -> str:
        if field.wire != BYTES or field.end - field.start > MOST_TEXT:
            raise _DamagedError(f"no text where one belongs, at byte {field.start}")
        try:
            return self._data[field.start : field.end].decode()
        except UnicodeDecodeError:
            raise _DamagedError(f"text that is not UTF-8 at byte {field.start}") from None


class _Relocation(_Reader):
    """Copies a model field by field, with other external data for some of its initializers."""

    def __init__(self, data: bytes, places: Mapping[str, tuple[str, int, int]]) -> None:
        super().__init__(data)
        self._bytes = data
        self._places = places

    def model(self) -> bytes:  # type: ignore[override]
        return self._copy(0, len(self._bytes), 7, self._graph_copy)

    def _graph_copy(self, start: int, end: int) -> bytes:
        return self._copy(start, end, 5, self._initializer_copy)

    def _initializer_copy(self, start: int, end: int) -> bytes:
        name = self._initializer(start, end).name
        if name not in self._places:
            return self._bytes[start:end]
        kept = self._copy(start, end, 13, lambda start, end: None)
        for key, value in zip(("location", "offset", "length"), self._places[name], strict=True):
            kept += _encoded(13, _encoded(1, key.encode()) + _encoded(2, str(value).encode()))
        return kept

    def _copy(self, start: int, end: int, number: int, change: Callable[[int, int], bytes | None]) -> bytes:
        """Copy the message at [start, end), `change` saying what becomes of the bytes of fields `number`, if any."""
        parts, place = [], start
        for field in self._fields(start, end):
            after = field.end if field.wire != VARINT else self._varint(self._varint(place, end)[1], end)[1]
            if field.number == number and field.wire == BYTES:
                changed = change(field.start, field.end)
                parts.append(b"" if changed is None else _encoded(number, changed))
            else:
                parts.append(self._bytes[place:after])
            place = after
        return b"".join(parts)


def _encoded(number: int, payload: bytes) -> bytes:
    """Return a field of bytes as a message holds it."""

    def varint(value: int) -> bytes:
        low, rest = value & 0x7F, value >> 7
        return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])

    return varint(number << 3 | BYTES) + varint(len(payload)) + payload


def _whole_number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelDirectoryError(f"initializer {what} is {text[:40]!r}, not a number; export the model again")
    return int(text)
