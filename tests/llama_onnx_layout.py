"""Writes a checkpoint as a directory of the original llama.onnx: graphs like those that torch exported from
transformers, in the same standard operators, with the same names of files, inputs and outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)


class GraphWriter:
    """A graph under construction; all its floats have one type."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.kind = helper.np_dtype_to_tensor_dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        if array.dtype == FLOAT:
            array = array.astype(self.dtype)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self.weight(f"ints_{len(self.weights)}", np.array(values, np.int64))

    def node(self, op: str, inputs: Sequence[str], output: str = "", **attributes: object) -> str:
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def input(self, name: str, shape: Sequence[int | str], kind: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.kind, shape))
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, self.kind, shape))

    def rms_norm(self, value: str, weight: np.ndarray, epsilon: float, output: str = "") -> str:
        wide = self.node("Cast", [value], to=TensorProto.FLOAT)
        self.weights.append(numpy_helper.from_array(np.array(epsilon, np.float32), f"epsilon_{len(self.nodes)}"))
        mean = self.node("ReduceMean", [self.node("Mul", [wide, wide])], axes=[-1])
        root = self.node("Sqrt", [self.node("Add", [mean, f"epsilon_{len(self.nodes) - 2}"])])
        scaled = self.node("Cast", [self.node("Div", [wide, root])], to=self.kind)
        return self.node("Mul", [scaled, self.weight(f"norm_{len(self.nodes)}", weight)], output)

    def save(self, path: Path, inside: bool) -> None:
        graph = helper.make_graph(self.nodes, path.stem, self.inputs, self.outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)
        onnx.save(model, str(path), save_as_external_data=not inside, location=f"{path.stem}.weights")


def write_layout(checkpoint: Path, out: Path, dtype: np.dtype = FLOAT, inside: bool = True) -> Path:
    """Write `out` from a Llama checkpoint in Hugging Face layout; weights go inside the files or beside them."""
    config = json.loads((checkpoint / "config.json").read_text())
    tensors = {name: array.astype(np.float32) for name, array in load_file(checkpoint / "model.safetensors").items()}
    out.mkdir(parents=True)
    shutil.copy(checkpoint / "tokenizer.model", out)
    hidden = config["hidden_size"]

    g = GraphWriter(dtype)
    g.input("input", ["N", "S"], TensorProto.INT64)
    g.node("Gather", [g.weight("table", tensors["model.embed_tokens.weight"]), "input"], "embed")
    g.output("embed", ["N", "S", hidden])
    g.save(out / "embed.onnx", inside)

    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        layer = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        g = GraphWriter(dtype)
        _layer(g, config, layer)
        g.save(out / f"decoder-merge-{i}.onnx", inside)

    g = GraphWriter(dtype)
    g.input("input", ["N", "S", hidden])
    g.rms_norm("input", tensors["model.norm.weight"], config["rms_norm_eps"], "output")
    g.output("output", ["N", "S", hidden])
    g.save(out / "norm.onnx", inside)

    g = GraphWriter(dtype)
    g.input("input", ["N", "S", hidden])
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    g.node("MatMul", ["input", g.weight("head", head.T)], "output")
    g.output("output", ["N", "S", "output_dim"])
    g.save(out / "head.onnx", inside)
    return out


def _layer(g: GraphWriter, config: dict, layer: dict[str, np.ndarray]) -> None:
    hidden, heads, kv_heads = (config[f"{n}"] for n in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    size = hidden // heads
    g.input("hidden_in", ["N", "S", hidden])
    g.input("attn_mask", ["N", 1, "S", "total"])
    g.input("position_ids", ["N", "S"], TensorProto.INT64)
    g.input("past_key_in", ["N", kv_heads, "past", size])
    g.input("past_value_in", ["N", kv_heads, "past", size])

    angles = np.outer(
        np.arange(config["max_position_embeddings"]), config["rope_theta"] ** -(np.arange(0, size, 2) / size)
    )
    tables = [
        g.weight(name, np.tile(table, 2)[None, None].astype(np.float32))
        for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles)))
    ]
    cos, sin = (
        g.node("Unsqueeze", [g.node("Gather", [g.node("Squeeze", [t, g.ints(0, 1)]), "position_ids"]), g.ints(1)])
        for t in tables
    )
    normed = g.rms_norm("hidden_in", layer["input_layernorm.weight"], config["rms_norm_eps"])

    def linear(name: str, value: str) -> str:
        return g.node("MatMul", [value, g.weight(name, layer[f"{name}.weight"].T)])

    def split(value: str, count: int) -> str:
        return g.node("Transpose", [g.node("Reshape", [value, g.ints(0, 0, count, size)])], perm=[0, 2, 1, 3])

    def turn(value: str) -> str:
        first, second = (
            g.node("Slice", [value, g.ints(start), g.ints(end), g.ints(3)])
            for start, end in ((0, size // 2), (size // 2, size))
        )
        halves = g.node("Concat", [g.node("Neg", [second]), first], axis=3)
        return g.node("Add", [g.node("Mul", [value, cos]), g.node("Mul", [halves, sin])])

    def repeat(value: str) -> str:  # models of the original have as many key heads as query heads
        if heads == kv_heads:
            return value
        wide = g.node("Unsqueeze", [value, g.ints(2)])
        wide = g.node("Expand", [wide, g.ints(1, 1, heads // kv_heads, 1, 1)])
        return g.node("Reshape", [wide, g.ints(0, heads, -1, size)])

    query = turn(split(linear("self_attn.q_proj", normed), heads))
    key = g.node(
        "Concat", ["past_key_in", turn(split(linear("self_attn.k_proj", normed), kv_heads))], "past_key", axis=2
    )
    value = g.node(
        "Concat", ["past_value_in", split(linear("self_attn.v_proj", normed), kv_heads)], "past_value", axis=2
    )
    scores = g.node("MatMul", [query, g.node("Transpose", [repeat(key)], perm=[0, 1, 3, 2])])
    scores = g.node("Div", [scores, g.weight("scale", np.array(size**0.5, np.float32))])
    scores = g.node("Add", [scores, "attn_mask"])
    scores = g.node("Max", [scores, g.weight("least", np.array(np.finfo(g.dtype).min, np.float32))])
    weights = g.node("Cast", [g.node("Softmax", [g.node("Cast", [scores], to=TensorProto.FLOAT)], axis=-1)], to=g.kind)
    mixed = g.node("Transpose", [g.node("MatMul", [weights, repeat(value)])], perm=[0, 2, 1, 3])
    attended = g.node(
        "Add", ["hidden_in", linear("self_attn.o_proj", g.node("Reshape", [mixed, g.ints(0, 0, hidden)]))]
    )
    normed = g.rms_norm(attended, layer["post_attention_layernorm.weight"], config["rms_norm_eps"])
    gate = linear("mlp.gate_proj", normed)
    gate = g.node("Mul", [gate, g.node("Sigmoid", [gate])])
    result = g.node("Mul", [gate, linear("mlp.up_proj", normed)])
    g.node("Add", [attended, linear("mlp.down_proj", result)], "hidden_out")
    g.output("hidden_out", ["N", "S", hidden])
    g.output("past_key", ["N", kv_heads, "total", size])
    g.output("past_value", ["N", kv_heads, "total", size])
