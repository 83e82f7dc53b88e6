"""Convert an fp32 model directory to fp16: half the size on disk; it still computes in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..config import ModelConfig, Shard
from ..errors import ModelDirectoryError
from ..files.mapped import looked_up_bytes
from ..model_directory import MANIFEST, read_config
from .graphs.graph import Graph, Rows
from .graphs.stored import external, read_graph, read_parts, read_tensor
from .graphs.weights import half_rows
from .half import to_half
from .packages import onnx
from .progress import progress, report
from .readers.json_files import read_json
from .writer import ModelWriter

PRODUCTS = ("FusedMatMul", "MatMul", "Gemm")  # their second input is the matrix


def convert(source: str | Path, out: str | Path) -> None:
    """Write the fp16 model directory `out` from the fp32 model directory `source`, two tensors in memory at a time.

    Matrices become float16. A matrix with values beyond the range of float16 stays float32, which is reported.

    Raises:
        ModelDirectoryError: source is not a complete fp32 model that `export` made, or out holds it.
    """
    source, out = Path(source), Path(out)
    config = read_config(source)
    if config.norm:
        raise ModelDirectoryError(
            f"{source}: is in the layout of the original llama.onnx; give a model that export made"
        )
    if config.weights != "fp32":
        raise ModelDirectoryError(f"{source}: its weights are {config.weights}; give an fp32 model")
    manifest = read_json(source / MANIFEST)
    key = {"source": str(source.resolve()), "files": manifest["files"], "dtype": "fp16"}
    with ModelWriter(out, key, [source / MANIFEST]) as writer:
        own = {file for shard in config.shards for file in (shard.path.name, f"{shard.name}.bin")}
        writer.copy({file: source / file for file in manifest["files"] if file not in own})
        for shard in progress(config.shards, f"converting to {out.name}"):
            shared = [file for file in shard.data_files if file != f"{shard.name}.bin"]
            writer.shard(shard.name, partial(_convert_shard, shard=shard, config=config, writer=writer), shared)
        writer.finish(config.architecture, manifest["model"], {**manifest["precision"], "weights": "fp16"})


def _convert_shard(g: Graph, shard: Shard, config: ModelConfig, writer: ModelWriter) -> None:
    graph = read_graph(shard.path)
    g.inputs, g.outputs = list(graph.input), list(graph.output)
    g.loaded_bytes = shard.loaded_bytes  # what was float32 in memory still is
    tables = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    matrices = {node.input[1] for node in graph.node if node.op_type in PRODUCTS}
    halved = set()
    for tensor in graph.initializer:
        place = external(tensor, "location")
        if place == f"{shard.name}.bin":
            array: np.ndarray | Rows
            if tensor.name not in tables | matrices:
                array = read_tensor(tensor, config.directory)
            elif tensor.dims[0] == config.vocab_size:  # the embedding and the head go a few rows at a time
                shape = tensor.dims[0], tensor.dims[1]
                array = half_rows(tensor.name, shape, partial(read_parts, tensor, config.directory), report)
            else:
                array = to_half(tensor.name, read_tensor(tensor, config.directory), report)
            g.weight(tensor.name, array, loaded_bytes=0)
            if tensor.name in tables:
                g.loaded_bytes = looked_up_bytes([array.nbytes], config.vocab_size)
        else:
            # It belongs to another shard, which is already converted (tied embeddings), or to a file that is copied.
            owner = next((other.name for other in config.shards if place == f"{other.name}.bin"), None)
            g.shared(writer.tensors(owner)[tensor.name] if owner else tensor)
        if g.initializers[-1].data_type == onnx.TensorProto.FLOAT16:
            halved.add(tensor.name)
    for node in graph.node:
        _add_node(g, node, halved)


def _add_node(g: Graph, node: onnx.NodeProto, halved: set[str]) -> None:
    """Copy a node. Where it reads a float16 tensor, add a Cast: before a product, after a lookup."""
    place = node.name.removesuffix(f"/{node.op_type}")
    if node.op_type in PRODUCTS and node.input[1] in halved:
        node.input[1] = g.node("Cast", place, [node.input[1]], to=onnx.TensorProto.FLOAT)
    elif node.op_type == "Gather" and node.input[0] in halved:
        rows = g.node("Gather", place, node.input)
        g.node("Cast", place, [rows], node.output, to=onnx.TensorProto.FLOAT)
        return
    g.nodes.append(node)
