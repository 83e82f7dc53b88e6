"""Reads files of `torch.save` without torch, and without running any code from the pickle.

A checkpoint is a pickled dictionary whose tensors refer to storages outside the pickle: other members of an
uncompressed zip archive, or data that follows the pickle (before torch 1.6). A pickle can name any function to call, so
only the few names that tensors need are allowed. Any other name is rejected before it is looked up.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import ModelDirectoryError
from ..packages import ml_dtypes
from .raw import DAMAGED, read_array

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
MAX_PICKLE = 64 << 20  # bytes; the pickle of a 70B checkpoint takes a few hundred kilobytes
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


@dataclass(frozen=True)
class Storage:
    """A run of values in the file."""

    key: str
    dtype: np.dtype
    size: int


@dataclass(frozen=True)
class LazyTensor:
    """A view of a storage; offset and strides count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """The tensors of a file, each read on demand."""

    def __init__(self, path: Path) -> None:
        """Read the pickle.

        Raises:
            ModelDirectoryError: the file is missing or damaged, or its pickle asks for anything but tensors.
        """
        self.path = path
        self._place: dict[str, tuple[int, int]] = {}  # byte offset and bytes of each storage
        try:
            with path.open("rb") as file:
                state = self._read_zip(file) if zipfile.is_zipfile(file) else self._read_legacy(file)
        except FileNotFoundError:
            raise ModelDirectoryError(f"{path}: missing; download it, or the whole checkpoint again") from None
        except ModelDirectoryError:
            raise
        except _Refused as error:
            raise ModelDirectoryError(f"{path}: {error}") from None
        except Exception as error:  # a damaged pickle can raise anything
            name = type(error).__name__
            raise ModelDirectoryError(f"{path}: not a checkpoint that torch saved ({name}): {DAMAGED}") from None
        if not isinstance(state, dict):
            raise ModelDirectoryError(f"{path}: is not a dictionary of tensors; give the weights of a checkpoint")
        self.tensors = {
            name: value
            for name, value in state.items()
            if isinstance(name, str) and name.isprintable() and isinstance(value, LazyTensor)
        }

    def names(self) -> frozenset[str]:
        """Return the names of the tensors in this file."""
        return frozenset(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.tensors[name].shape

    def tensor(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Return a tensor, or `rows` of a matrix, in its stored type, contiguous."""
        tensor = self.tensors[name]
        if len(tensor.shape) == 2:
            first, last, _ = rows.indices(tensor.shape[0])
            offset, shape = tensor.offset + first * tensor.strides[0], (last - first, tensor.shape[1])
            tensor = replace(tensor, offset=offset, shape=shape)
        storage, size = tensor.storage, math.prod(tensor.shape)
        span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)) if size else 0
        if storage.key not in self._place:
            raise ModelDirectoryError(f"{self.path}: {name} refers to data that is not there: {DAMAGED}")
        start, length = self._place[storage.key]
        width = storage.dtype.itemsize
        # A view can have more values than its storage by repeating them. No weight does, and it could fill the memory.
        if size > storage.size or tensor.offset + span > storage.size or storage.size * width > length:
            raise ModelDirectoryError(f"{self.path}: {name} reaches beyond its data: {DAMAGED}")
        values = read_array(self.path, start + tensor.offset * width, span, storage.dtype)
        strides = [stride * width for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(values, tensor.shape, strides)
        return view if view.flags.c_contiguous else view.copy()

    def _read_zip(self, file: IO[bytes]) -> Any:
        with zipfile.ZipFile(file) as archive:
            pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ModelDirectoryError(f"{self.path}: a zip archive, but not one that torch saved (no data.pkl)")
            folder = pickles[0].filename.removesuffix("data.pkl")
            for info in archive.infolist():
                if info.filename.startswith(folder + "data/"):
                    if info.compress_type != zipfile.ZIP_STORED:
                        raise ModelDirectoryError(
                            f"{self.path}: {info.filename} is compressed; save it again with torch"
                        )
                    key = info.filename.removeprefix(folder + "data/")
                    self._place[key] = _data_offset(file, info), info.file_size
            if folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") != b"little":
                raise ModelDirectoryError(f"{self.path}: saved on a big-endian machine, which is not supported")
            if pickles[0].file_size > MAX_PICKLE:
                raise ModelDirectoryError(
                    f"{self.path}: a pickle of {pickles[0].file_size} bytes is too large for a checkpoint"
                )
            with archive.open(pickles[0]) as member:
                return _Unpickler(member).load()

    def _read_legacy(self, file: IO[bytes]) -> Any:
        file.seek(0)
        if file.read(1) != b"\x80":
            raise ModelDirectoryError(f"{self.path}: neither a zip archive nor a pickle: {DAMAGED}")
        file.seek(0)
        if _Unpickler(file).load() != LEGACY_MAGIC or _Unpickler(file).load() != LEGACY_VERSION:
            raise ModelDirectoryError(f"{self.path}: a pickle, but not one that torch saved; give a checkpoint")
        system = _Unpickler(file).load()
        if not system.get("little_endian"):
            raise ModelDirectoryError(f"{self.path}: saved on a big-endian machine, which is not supported")
        unpickler = _Unpickler(file)
        state = unpickler.load()
        for key in _Unpickler(file).load():
            (size,) = struct.unpack("<q", file.read(8))
            storage = unpickler.storages[key]
            if size != storage.size:
                raise ModelDirectoryError(
                    f"{self.path}: data of {size} values, but its tensors need {storage.size}: {DAMAGED}"
                )
            self._place[key] = file.tell(), size * storage.dtype.itemsize
            file.seek(size * storage.dtype.itemsize, 1)
        return state


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not allowed; the message says what."""


class _StateDict(dict[str, Any]):
    """Stands in for OrderedDict. Attributes that the pickle sets (`_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _Callable:
    """A function that the pickle may call but not change: its attributes cannot be set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused("the pickle changes a function, which no checkpoint does; do not trust this file")

    def __setstate__(self, state: Any) -> None:
        self.__setattr__("state", state)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> LazyTensor:
    """Stands in for `torch._utils._rebuild_tensor_v2`(storage, offset, size, stride, requires_grad, hooks)."""
    numbers = [offset, *shape, *strides]
    valid = all(isinstance(number, int) and number >= 0 for number in numbers) and len(shape) == len(strides)
    if not isinstance(storage, Storage) or not valid:
        raise _Refused(f"a tensor without sizes or data: {DAMAGED}")
    return LazyTensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    """Stands in for `torch._utils._rebuild_parameter`(data, requires_grad, hooks)."""
    return tensor


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(sizes)


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _StateDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Callable(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Callable(_parameter),
    ("torch", "Size"): _Callable(_size),
    **{("torch", name): f"torch.{name}" for name in STORAGES},  # plain strings, which cannot be called
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            asked = f"{module}.{name}".encode("unicode_escape").decode()[:80]
            raise _Refused(
                f"the pickle asks for {asked}, which weights do not need; nothing was run. Do not trust this "
                "file, or save the weights as safetensors"
            ) from None

    def persistent_load(self, reference: Any) -> Storage:
        match reference:
            case ("storage", str(kind), str(key), _, int(size), *rest) if (
                kind.startswith("torch.") and size >= 0 and not any(rest)
            ):
                storage = Storage(key, STORAGES[kind.removeprefix("torch.")], size)
                self.storages[key] = storage
                return storage
        raise _Refused(f"a tensor whose data is not described as in torch: {DAMAGED}")


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Return the offset of a member's bytes, after its local header, whose size may differ from the directory entry."""
    position = file.tell()
    file.seek(info.header_offset)
    header = file.read(30)
    file.seek(position)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra
