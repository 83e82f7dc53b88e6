"""Reads directories in the layout of the original llama.onnx, unchanged.

    embed.onnx  decoder-merge-0.onnx … decoder-merge-{n-1}.onnx  norm.onnx  head.onnx  tokenizer.model

Weights are inside the ONNX files or beside them, in float32 or float16. There is no manifest, so the sizes come from
the graphs. A layer maps `hidden_in [B, S, H], attn_mask [B, 1, S, past + S], position_ids [B, S], past_key_in` and
`past_value_in [B, heads, past, head_dim]` to `hidden_out, past_key, past_value [B, heads, past + S, head_dim]`. The
other graphs have one input and one output each, of any name. `decoder.py` runs them.

Where such a directory does not say otherwise, the values of the original are assumed: prompts in the alpaca form, BOS
1, EOS 2, heads of 128, and a context of 2048.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..config import ModelConfig, Shard
from ..errors import ModelDirectoryError
from ..files.onnx_file import DTYPES, Graph, Initializer, read_graph

LAYER = "decoder-merge-{}.onnx"
LAYER_INPUTS = ("hidden_in", "attn_mask", "position_ids", "past_key_in", "past_value_in")
LAYER_OUTPUTS = ("hidden_out", "past_key", "past_value")
BOS, EOS = 1, 2
CONTEXT = 2048
HEAD_DIM = 128
COPIES = 2, 1  # of attention scores and logits; see `ModelConfig.copies`


def is_legacy(directory: Path) -> bool:
    """Return whether a directory holds layers named as in the original layout."""
    return directory.is_dir() and any(_layer_number(path) is not None for path in directory.iterdir())


def read_legacy_config(directory: Path) -> ModelConfig:
    """Return the configuration of a directory in the original layout.

    Raises:
        ModelDirectoryError: a file is missing or damaged, or a graph does not have the inputs, outputs or weights that
            its name promises.
    """
    numbers = {number for path in directory.iterdir() if (number := _layer_number(path)) is not None}
    names = [LAYER.format(i) for i in range(max(numbers) + 1)]
    for name in ("embed.onnx", *names, "norm.onnx", "head.onnx", "tokenizer.model"):
        if not (directory / name).is_file():
            raise ModelDirectoryError(f"{directory / name}: missing; copy the model again")
    embed, norm, head = (read_graph(directory / f"{name}.onnx") for name in ("embed", "norm", "head"))
    for name, graph in (("embed", embed), ("norm", norm), ("head", head)):
        _check_names(directory / f"{name}.onnx", graph)
    vocab_size, hidden_size = _table(directory / "embed.onnx", embed)
    layers = []
    for name in names:
        graph = read_graph(directory / name)
        _check_names(directory / name, graph, LAYER_INPUTS, LAYER_OUTPUTS)
        layers.append(_shard(directory / name, graph))
    heads, head_dim = _heads(directory / names[-1], graph, hidden_size)
    matrices = [tensor.shape for tensor in graph.initializers if len(tensor.shape) == 2]
    return ModelConfig(
        directory=directory,
        architecture="llama.onnx",
        hidden_size=hidden_size,
        num_layers=len(layers),
        num_heads=max(heads, hidden_size // head_dim),
        num_kv_heads=heads,
        head_dim=head_dim,
        intermediate_size=max(map(max, matrices), default=hidden_size),
        vocab_size=vocab_size,
        context_length=_context_length(graph, head_dim),
        bos_token_id=BOS,
        eos_token_ids=(EOS,),
        add_bos=True,
        weights=_precision(graph),
        embed=_shard(directory / "embed.onnx", embed, lookup=True),
        layers=tuple(layers),
        norm=_shard(directory / "norm.onnx", norm),
        head=_shard(directory / "head.onnx", head),
        template="alpaca",
        copies=COPIES,
    )


def _layer_number(path: Path) -> int | None:
    match = re.fullmatch(r"decoder-merge-(0|[1-9][0-9]{0,3})\.onnx", path.name)
    return int(match[1]) if match else None


def _inputs(graph: Graph) -> list[str]:
    """Return the names of the inputs without the weights, which old files list among them."""
    weights = {tensor.name for tensor in graph.initializers}
    return [value.name for value in graph.inputs if value.name not in weights]


def _check_names(path: Path, graph: Graph, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> None:
    """Check the names of a graph's inputs and outputs. If none are given, there must be exactly one of each."""
    for kind, found, wanted in (
        ("inputs", _inputs(graph), inputs),
        ("outputs", [value.name for value in graph.outputs], outputs),
    ):
        if sorted(found) != sorted(wanted) if wanted else len(found) != 1:
            raise ModelDirectoryError(
                f"{path}: its {kind} are {', '.join(found)[:200] or 'none'}, not {', '.join(wanted) or 'exactly one'}; "
                "it is not a part of a llama.onnx model"
            )


def _table(path: Path, graph: Graph) -> tuple[int, int]:
    """Return rows and columns of the embedding: the vocabulary and the hidden size."""
    table = max((t for t in graph.initializers if len(t.shape) == 2), key=lambda tensor: tensor.size, default=None)
    if table is None or not all(table.shape):
        raise ModelDirectoryError(f"{path}: has no embedding table; it is not a part of a llama.onnx model")
    return table.shape[0], table.shape[1]


def _heads(path: Path, graph: Graph, hidden_size: int) -> tuple[int, int]:
    """Return the number and size of the cache's heads, from the fixed dimensions of [B, heads, past, head_dim]."""
    shape = next(value.shape for value in graph.inputs if value.name == "past_key_in")
    heads, head_dim = (shape[1], shape[3]) if len(shape) == 4 else ("", "")
    if not isinstance(head_dim, int):
        head_dim = hidden_size // max(heads, 1) if isinstance(heads, int) else HEAD_DIM
    heads = heads if isinstance(heads, int) else hidden_size // max(head_dim, 1)
    if heads < 1 or head_dim < 1:
        raise ModelDirectoryError(f"{path}: past_key_in has the shape {list(shape)}, not [B, heads, past, head_dim]")
    return heads, head_dim


def _context_length(graph: Graph, head_dim: int) -> int:
    """Return the rows of the rope tables, [1, 1, positions, head_dim], if a layer has any; else the default."""
    rows = [
        tensor.shape[-2]
        for tensor in graph.initializers
        if len(tensor.shape) in (3, 4)
        and tensor.shape[-1] in (head_dim, head_dim // 2)
        and set(tensor.shape[:-2]) == {1}
    ]
    return min((count for count in rows if count > 1), default=CONTEXT)


def _precision(graph: Graph) -> str:
    largest = max(graph.initializers, key=lambda tensor: tensor.size, default=None)
    name = DTYPES.get(largest.dtype, ("unknown",))[0] if largest else "unknown"
    return {"float32": "fp32", "float16": "fp16"}.get(name, name)


def _shard(path: Path, graph: Graph, lookup: bool = False) -> Shard:
    """Return the shard of a graph. With `lookup`, its float16 table is not widened when it is loaded."""
    files = _data_files(path, graph)
    file_bytes = path.stat().st_size + sum((path.parent / file).stat().st_size for file in files)
    widened = [2 if DTYPES.get(t.dtype, ("",))[0] == "float16" and not lookup else 1 for t in graph.initializers]
    loaded = sum(factor * tensor.nbytes for factor, tensor in zip(widened, graph.initializers, strict=True))
    return Shard(
        name=path.stem,
        path=path,
        data_files=files,
        loaded_bytes=max(loaded, 1),
        file_bytes=file_bytes,
        copied=2 * sum(t.nbytes for t in graph.initializers if not t.external_data) > file_bytes,
    )


def _data_files(path: Path, graph: Graph) -> tuple[str, ...]:
    """Return the names of the files with a graph's weights; check that they exist and are long enough."""
    ends: dict[str, int] = {}
    for tensor in graph.initializers:
        if tensor.external_data:
            name, end = _place(path, tensor)
            ends[name] = max(end, ends.get(name, 0))
    for name, end in ends.items():
        if not (path.parent / name).is_file():
            raise ModelDirectoryError(
                f"{path.parent / name}: missing, though {path.name} needs it; copy the model again"
            )
        if (path.parent / name).stat().st_size < end:
            raise ModelDirectoryError(
                f"{path.parent / name}: ends before the weights of {path.name} do; copy the model again"
            )
    return tuple(ends)


def _place(path: Path, tensor: Initializer) -> tuple[str, int]:
    """Return the file that holds a tensor, and the offset at which the tensor ends."""
    name, offset, length = tensor.location
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelDirectoryError(f"{path}: the location {name[:80]!r} of {tensor.name} is outside the directory")
    return name, offset + length
