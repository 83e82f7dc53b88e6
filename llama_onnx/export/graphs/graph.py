"""An ONNX graph under construction. Its weights are written to an external file, one tensor at a time."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ... import __version__
from ...config import CAPABILITIES
from ..packages import onnx

ALIGNMENT = 4096  # ONNX Runtime maps aligned tensors in place; direct reads need whole pages too
STRETCH = 8 << 20  # bytes written between flushes
SYNC_WRITE, SYNC_WRITE_AND_WAIT = 2, 7  # flags of sync_file_range(2)
OPSET = 21
IR_VERSION = 10  # supported by every ONNX Runtime that has these operators
MICROSOFT = "com.microsoft"
MARKS = {  # names of tensors by which a capability is told
    "bit_planes": {"low"},
    "block_minima": {"minima", "minimum_base"},
    "scale_factors": {"scale_factors"},
}


@dataclass(frozen=True)
class Rows:
    """A matrix of floats [out, in] that is made a few rows at a time while it is written, so it can be read once.

    Attributes:
        shape: of the whole matrix.
        dtype: of its values.
        parts: consecutive slices of its rows.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    parts: Iterable[np.ndarray]

    @property
    def size(self) -> int:
        """Number of values."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self.size * self.dtype.itemsize


class WeightFile:
    """A file of raw tensors, each at a 4096-byte offset, written from front to back; a context manager.

    Threads write and hash a tensor, or a part of one, while the caller makes the next; the caller must not change it
    meanwhile. Data is flushed every few megabytes: otherwise the system collects dirty pages until memory is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._threads = ThreadPoolExecutor(2)
        self._under_way: list[Future[None]] = []

    def add(
        self, name: str, array: np.ndarray | Rows, kind: int | None = None, shape: Sequence[int] = ()
    ) -> onnx.TensorProto:
        """Append a tensor and return the initializer that refers to it.

        Args:
            name: of the tensor.
            array: its values.
            kind: the ONNX type, if the array holds the bytes of a type that numpy lacks (4-bit values); else None.
            shape: of the tensor, if `kind` is given.

        Raises:
            OSError: this tensor or the previous one could not be written.
        """
        if isinstance(array, np.ndarray):
            array = np.ascontiguousarray(array)  # which makes a scalar a vector
        if kind is None:
            kind, shape = onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        padding = bytes(-self.bytes % ALIGNMENT)
        tensor = external_tensor(name, kind, shape, self.path.name, self.bytes + len(padding), array.nbytes)
        self.bytes += len(padding) + array.nbytes
        for part in array.parts if isinstance(array, Rows) else [array]:
            data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            self._wait()
            self._under_way = [
                self._threads.submit(work, padding, data) for work in (self._write_tensor, self._hash_tensor)
            ]
            padding = b""
        return tensor

    def close(self) -> None:
        """Finish the file."""
        try:
            self._wait()
        finally:
            self._threads.shutdown()
            self._file.close()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def entry(self) -> dict[str, Any]:
        """The manifest's entry for the finished file: bytes and sha256."""
        return {"bytes": self.bytes, "sha256": self._hash.hexdigest()}

    def _wait(self) -> None:
        """Wait until the previous tensor is written: at most two are in memory."""
        under_way, self._under_way = self._under_way, []
        wait(under_way)
        for future in under_way:
            future.result()

    def _write_tensor(self, padding: bytes, data: memoryview) -> None:
        self._write(padding)
        for start in range(0, len(data), STRETCH):
            self._write(data[start : start + STRETCH])
            if len(data) - start >= STRETCH:
                write_back(self._file)

    def _hash_tensor(self, padding: bytes, data: memoryview) -> None:
        self._hash.update(padding)
        self._hash.update(data)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)


def write_back(file: IO[bytes]) -> None:
    """Flush a growing file: start writing its last stretch, and drop what is written before it from the page cache.

    Systems without `sync_file_range` flush the whole file.
    """
    file.flush()
    descriptor, end = file.fileno(), file.tell()
    last = max(end - STRETCH, 0)
    if sys.platform == "linux":
        sync = ctypes.CDLL(None).sync_file_range
        sync.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        if sync(descriptor, last, end - last, SYNC_WRITE) == 0 and sync(descriptor, 0, last, SYNC_WRITE_AND_WAIT) == 0:
            os.posix_fadvise(descriptor, 0, last, os.POSIX_FADV_DONTNEED)
            return
    os.fsync(descriptor)


class Graph:
    """The nodes, inputs, outputs and initializers of one shard.

    Values are identified by name. A node is named after the module of the checkpoint that it computes
    (`/layers.0/attn/q_proj/MatMul`), and its outputs after the node.
    """

    def __init__(self, name: str, weights: WeightFile) -> None:
        self.name = name
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.loaded_bytes = 0

    def input(self, name: str, dtype: type, shape: Sequence[int | str]) -> str:
        """Declare a graph input; a str in the shape is a free dimension."""
        self.inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: type, shape: Sequence[int | str]) -> str:
        """Declare a graph output. A node must have an output of this name."""
        self.outputs.append(_value_info(name, dtype, shape))
        return name

    def weight(self, name: str, array: np.ndarray | Rows, loaded_bytes: int | None = None) -> str:
        """Write a tensor to the weight file and return its name.

        Args:
            name: of the tensor.
            array: its values.
            loaded_bytes: the memory it takes once the shard is loaded, if that differs from its size.
        """
        return self.shared(self.weights.add(name, array), array.nbytes if loaded_bytes is None else loaded_bytes)

    def packed_weight(self, name: str, kind: int, shape: Sequence[int], data: np.ndarray, loaded_bytes: int) -> str:
        """Write a tensor of an ONNX type that numpy lacks, such as INT4, given as uint8 bytes; see `weight`."""
        return self.shared(self.weights.add(name, data, kind, shape), loaded_bytes)

    def ints(self, name: str, values: int | Sequence[int]) -> str:
        """Add a constant int64 [n], or a scalar, to the graph itself, and return its name."""
        return self.constant(name, np.array(values, np.int64))

    def floats(self, name: str, values: float | Sequence[float]) -> str:
        """Add a constant float32 [n], or a scalar, to the graph itself, and return its name."""
        return self.constant(name, np.array(values, np.float32))

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add a small constant to the graph itself, and return its name."""
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        return name

    def shared(self, tensor: onnx.TensorProto, loaded_bytes: int = 0) -> str:
        """Refer to a tensor that is already in a weight file, and return its name."""
        self.initializers.append(tensor)
        self.loaded_bytes += loaded_bytes
        return tensor.name

    def node(
        self,
        op: str,
        name: str,
        inputs: Iterable[str],
        outputs: Sequence[str] = (),
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add the node `name/op` and return its first output, `name/op/output_0` unless given."""
        outputs = outputs or [f"{name}/{op}/output_0"]
        self.nodes.append(
            onnx.helper.make_node(op, list(inputs), list(outputs), f"{name}/{op}", domain=domain, **attributes)
        )
        return outputs[0]

    def kind(self) -> str:
        """Return a hash of everything except the weights, the layer's number and the names of files.

        Two shards of the same kind differ only in their weights, which are at the same offsets in their files.
        """
        nodes = [[n.op_type, n.domain, *map(_unnumbered, [*n.input, "->", *n.output])] for n in self.nodes]
        attributes = [sorted(a.SerializeToString(deterministic=True).hex() for a in n.attribute) for n in self.nodes]
        tensors = [
            [_unnumbered(t.name), t.data_type, *t.dims, *(e.value for e in t.external_data if e.key != "location")]
            for t in self.initializers
        ]
        return hashlib.sha256(json.dumps([nodes, attributes, tensors]).encode()).hexdigest()[:16]

    def capabilities(self) -> set[str]:
        """Return the `CAPABILITIES` of this graph: inputs and kinds of weights that only some graphs have."""
        found = {value.name for value in self.inputs} & set(CAPABILITIES)
        endings = {tensor.name.rpartition(".")[2] for tensor in self.initializers}
        return found | {name for name, marks in MARKS.items() if marks & endings}

    def save(self, path: Path) -> None:
        """Write the graph. Its weights are already in their file."""
        graph = onnx.helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.initializers)
        save_model(graph, path)


def save_model(graph: onnx.GraphProto, path: Path) -> None:
    """Write a graph as a model file, with the opsets and producer of this project."""
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    if any(node.domain == MICROSOFT for node in graph.node):
        opsets.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    model = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="llama_onnx", producer_version=__version__
    )
    path.write_bytes(model.SerializeToString(deterministic=True))


def external_tensor(
    name: str, dtype: int, shape: Sequence[int], file: str, offset: int, length: int
) -> onnx.TensorProto:
    """Return an initializer whose data is `length` bytes at `offset` of `file`."""
    tensor = onnx.TensorProto(name=name, data_type=dtype, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _unnumbered(name: str) -> str:
    return re.sub(r"(?<=layers\.)\d+(?=\.|/)", "#", name)


def _value_info(name: str, dtype: type, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
