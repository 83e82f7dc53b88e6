"""The GGUF container: metadata and a table of tensors. Every length is checked."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import MissingDependencyError, ModelDirectoryError
from ..packages import ml_dtypes
from .raw import DAMAGED, read_array

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 30: np.dtype(ml_dtypes.bfloat16)}  # tensor types that numpy has
LIMIT = 1 << 26  # of counts and lengths, far above any real one


@dataclass(frozen=True)
class Entry:
    """A tensor: its file, byte offset in it, shape in numpy's order, number of its type."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    type: int


class GgufFile:
    """Metadata and tensors of a file.

    Attributes:
        paths: the file, and its other parts if it has any.
        metadata: values by key; arrays are lists.
        tensors: entries by name.
    """

    def __init__(self, path: Path) -> None:
        """Read everything except the tensors' data.

        Raises:
            ModelDirectoryError: the file is missing, damaged, or of an unknown version.
        """
        self.path = path
        self.paths = [path]
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Entry] = {}
        try:
            self._bytes = path.stat().st_size
            with path.open("rb") as file:
                self._read(file)
        except OSError as error:
            raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None
        except (struct.error, UnicodeDecodeError, ValueError, OverflowError):
            raise ModelDirectoryError(f"{path}: its header cannot be read: {DAMAGED}") from None

    def tensor(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Return a tensor, or `rows` of a matrix, in its stored float type; quantised ones dequantised to float32.

        Raises:
            ModelDirectoryError: the file is too short, or the type is not known.
            MissingDependencyError: the type needs the `gguf` package, which is not installed.
        """
        entry = self.tensors[name]
        if entry.type in PLAIN:
            offset, shape = _part(entry, rows, math.prod(entry.shape[1:]) * PLAIN[entry.type].itemsize)
            return read_array(entry.path, offset, math.prod(shape), PLAIN[entry.type]).reshape(shape)
        gguf = import_gguf(self.path)
        try:
            kind = gguf.GGMLQuantizationType(entry.type)
            block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            if not entry.shape or entry.shape[-1] % block_size:
                raise ModelDirectoryError(f"{self.path}: rows of {name} are not blocks of {block_size}: {DAMAGED}")
            row = entry.shape[-1] // block_size * block_bytes
            offset, shape = _part(entry, rows, row)
            data = read_array(entry.path, offset, math.prod(shape[:-1]) * row, np.uint8)
            with np.errstate(all="ignore"):
                return np.asarray(gguf.quants.dequantize(data.reshape(*shape[:-1], row), kind), np.float32)
        except (ValueError, KeyError, NotImplementedError):
            known = {member.value: member.name for member in gguf.GGMLQuantizationType}
            raise ModelDirectoryError(
                f"{self.path}: {name} is stored in GGML type {known.get(entry.type, entry.type)}, which is not "
                "supported; give a file in F32, F16, BF16, Q8_0, Q4_0 to Q5_1, Q2_K to Q6_K or IQ1_S to IQ4_XS"
            ) from None

    def _read(self, file: IO[bytes]) -> None:
        if file.read(4) != MAGIC:
            raise ModelDirectoryError(f"{self.path}: not a GGUF file")
        (version,) = _unpack(file, "I")
        if version not in VERSIONS:
            raise ModelDirectoryError(
                f"{self.path}: GGUF version {version}; only 2 and 3 (little-endian) are supported"
            )
        tensors, fields = _unpack(file, "QQ")
        if max(tensors, fields) > LIMIT:
            raise ValueError
        for _ in range(fields):
            key, (kind,) = _string(file), _unpack(file, "I")
            self.metadata[key] = self._value(file, kind)
        entries: dict[str, Entry] = {}
        for _ in range(tensors):
            name, (dimensions,) = _string(file), _unpack(file, "I")
            if dimensions > 4 or not name.isprintable():
                raise ValueError
            shape = _unpack(file, f"{dimensions}Q")
            kind, offset = _unpack(file, "IQ")
            if max(shape, default=1) > 1 << 40 or offset > self._bytes:
                raise ModelDirectoryError(f"{self.path}: ends before the end of {name}: {DAMAGED}")
            entries[name] = Entry(self.path, offset, shape[::-1], kind)
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment < LIMIT:
            raise ValueError
        start = -(-file.tell() // alignment) * alignment
        self.tensors = {n: replace(e, offset=start + e.offset) for n, e in entries.items()}

    def _value(self, file: IO[bytes], kind: int) -> Any:
        if kind == STRING:
            return _string(file)
        if kind in SCALARS:
            return _unpack(file, SCALARS[kind])[0]
        if kind != ARRAY:
            raise ValueError
        element, count = _unpack(file, "IQ")
        if count > LIMIT or count > self._bytes:
            raise ValueError
        if element == STRING:
            return [_string(file) for _ in range(count)]
        if element not in SCALARS:  # arrays of arrays are not needed
            raise ValueError
        return list(_unpack(file, f"{count}{SCALARS[element]}"))


def _part(entry: Entry, rows: slice, row: int) -> tuple[int, tuple[int, ...]]:
    """Return byte offset and shape of some rows of a matrix, given the bytes of one; of all of another tensor."""
    if len(entry.shape) != 2:
        return entry.offset, entry.shape
    start, stop, _ = rows.indices(entry.shape[0])
    return entry.offset + start * row, (stop - start, entry.shape[1])


def import_gguf(path: Path) -> Any:
    """Return the `gguf` package, which knows the layout of the quantised types."""
    try:
        import gguf
    except ImportError:
        raise MissingDependencyError(f"{path}: reading quantised GGUF files needs: pip install gguf") from None
    return gguf


def _unpack(file: IO[bytes], layout: str) -> tuple[Any, ...]:
    size = struct.calcsize("<" + layout)
    return struct.unpack("<" + layout, file.read(size))


def _string(file: IO[bytes]) -> str:
    (length,) = _unpack(file, "Q")
    if length > LIMIT:
        raise ValueError
    data = file.read(length)
    if len(data) != length:
        raise ValueError
    return data.decode()
