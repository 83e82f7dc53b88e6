"""Reads graphs and tensors back from a model directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import ModelDirectoryError
from ..checkpoint import row_slices
from ..packages import onnx


def read_graph(path: Path) -> onnx.GraphProto:
    """Return the graph of a shard. The weights stay in their data file.

    Raises:
        ModelDirectoryError: the file cannot be read.
    """
    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf raises exceptions of its own
        raise ModelDirectoryError(f"{path}: cannot be read ({_one_line(error)})") from None


def external(tensor: onnx.TensorProto, key: str) -> str:
    """Return 'location', 'offset' or 'length' of a tensor's data; '' for a tensor without a data file."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    """Return the values of a tensor, read from its data file in `folder` if they are not in the graph.

    Raises:
        ModelDirectoryError: the data file is missing or too short.
    """
    copy = onnx.TensorProto()  # the helper stores the values in the message it is given
    copy.CopyFrom(tensor)
    try:
        if onnx.external_data_helper.uses_external_data(copy):
            onnx.external_data_helper.load_external_data_for_tensor(copy, str(folder))
        return np.asarray(onnx.numpy_helper.to_array(copy))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        place = folder / external(tensor, "location")
        raise ModelDirectoryError(f"{place}: tensor {tensor.name} cannot be read ({_one_line(error)})") from None


def read_parts(tensor: onnx.TensorProto, folder: Path) -> Iterator[np.ndarray]:
    """Yield the values of a tensor as consecutive slices of its rows; see `read_tensor`."""
    if len(tensor.dims) != 2 or not external(tensor, "location"):
        yield read_tensor(tensor, folder)
        return
    for rows in row_slices(tensor.dims):
        part = onnx.TensorProto()
        part.CopyFrom(tensor)
        part.dims[0] = rows.stop - rows.start
        row = int(external(tensor, "length")) // tensor.dims[0]
        for entry in part.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + rows.start * row)
            elif entry.key == "length":
                entry.value = str(part.dims[0] * row)
        yield read_tensor(part, folder)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
