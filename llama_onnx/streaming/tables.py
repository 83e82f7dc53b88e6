"""The tables that all layers read: the rope tables, float32 [positions, columns].

They can be large (512 MB for a million positions), and a run reads the rows of its own positions only. A session maps
them from their file, so only those rows take memory. A slot's files are in memory, so its session is given tables that
are mapped from the model's own file, once for all slots, and the file in the slot's folder is empty.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Shard
from ..files.onnx_file import DTYPES, Initializer, read_graph, relocate

SHORT = 64  # rows that are enough to pack a shard and to try it
READ_BYTES = 4 << 20  # 8,192 rows of two tables for heads of 128 dimensions; more are below 1 % of the KV cache


def shared_tensors(shard: Shard) -> list[Initializer]:
    """Return the initializers of a shard whose data is in a file that it shares with other shards."""
    own = shard.path.with_suffix(".bin").name
    return [tensor for tensor in read_graph(shard.path).initializers if tensor.location[0] not in ("", own)]


def table_bytes(paths: Sequence[Path]) -> int:
    """Return the bytes charged for the shared files of all slots."""
    return min(READ_BYTES, sum(path.stat().st_size for path in paths))


def mapped_tables(shard: Shard) -> dict[str, Any]:
    """Return the shared tensors of a shard as OrtValues, by name, mapped from their file."""
    import onnxruntime as ort

    tables = {}
    for tensor in shared_tensors(shard):
        name, offset, _ = tensor.location
        array = np.memmap(shard.path.with_name(name), np.dtype(DTYPES[tensor.dtype][2]), "r", offset, tensor.shape)
        tables[tensor.name] = ort.OrtValue.ortvalue_from_numpy(array)  # which keeps the array
    return tables


def make_empty(path: Path, like: Path) -> None:
    """Make a file of the same size that takes no space."""
    with path.open("wb") as file:
        file.truncate(like.stat().st_size)


def with_short_tables(shard: Shard, folder: Path) -> Shard:
    """Return the shard with the same weights, but the first rows of the tables only, made of files in `folder`.

    The files of the tables have their full size, but are empty after the first rows.
    """
    places, shapes = {}, {}
    for tensor in shared_tensors(shard):
        name, offset, length = tensor.location
        rows = min(tensor.shape[0], SHORT)
        size = length // tensor.shape[0] * rows
        places[tensor.name], shapes[tensor.name] = (name, offset, size), (rows, *tensor.shape[1:])
        if not (folder / name).exists():
            make_empty(folder / name, shard.path.with_name(name))
        with shard.path.with_name(name).open("rb") as source, (folder / name).open("r+b") as target:
            source.seek(offset)
            target.seek(offset)
            target.write(source.read(size))
    graph = Path(shutil.copyfile(shard.path, folder / shard.path.name))
    relocate(graph, places, shapes)
    data = shard.path.with_suffix(".bin")
    try:
        (folder / data.name).hardlink_to(data)
    except OSError:  # it is on another disk
        shutil.copyfile(data, folder / data.name)
    return replace(shard, path=graph)
