"""Builds the graphs of embedding, decoder layer and head for any family, from its `DecoderSpec`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...files.mapped import looked_up_bytes
from ..families.spec import EMBEDDING, FINAL_NORM, HEAD, DecoderSpec
from ..nbits import NBits
from ..packages import onnx
from .activations import activate, softcap
from .compact import StoredNBits, find, write
from .graph import Graph, Rows, WeightFile
from .heads import norm_heads, pad_heads
from .ops import Heads, Matrix, Ops
from .stored import external
from .weights import Arrange, Weights
from .widened import Widened

ROPE_FILE = "rope.bin"
FLOAT = np.float32
RopeTensors = Mapping[str, Sequence[onnx.TensorProto]]  # tables of cosines and sines by the name of the rope


def write_rope(weights: WeightFile, spec: DecoderSpec) -> dict[str, list[onnx.TensorProto]]:
    """Write the tables of rotary embedding, float32 [rows, columns] each; see `Rope.table`."""
    tensors = {}
    for name, rope in spec.ropes.items():
        shape, suffix = (rope.rows(spec.context_length), rope.columns), f"_{name}" if name else ""
        tensors[name] = [
            weights.add(
                f"{table}_cache{suffix}", Rows(shape, np.dtype(FLOAT), rope.table(spec.context_length, function))
            )
            for table, function in (("cos", np.cos), ("sin", np.sin))
        ]
    return tensors


def build_embed(g: Graph, spec: DecoderSpec, weights: Weights, ops: Ops) -> None:
    """input_ids int64 [batch, sequence] -> hidden float32 [batch, sequence, hidden_size]."""
    g.input("input_ids", np.int64, ["batch", "sequence"])
    table = weights.embedding(EMBEDDING, (spec.vocab_size, spec.hidden_size))
    scaled = spec.embedding_scale != 1
    found = ["hidden"] if not scaled else []
    if isinstance(table, NBits):
        stored = write(g.weights, EMBEDDING, table)
        parts = [int(external(tensor, "length")) for tensor in stored.tensors.values()]
        g.loaded_bytes = looked_up_bytes(parts, spec.vocab_size)
        rows = Widened(g, stored, "input_ids").floats(found)
    else:
        name = g.weight(EMBEDDING, table, looked_up_bytes([table.nbytes], spec.vocab_size))
        if table.dtype == FLOAT:
            rows = g.node("Gather", "/embed_tokens", [name, "input_ids"], found)
        else:
            rows = g.node("Gather", "/embed_tokens", [name, "input_ids"])
            rows = g.node("Cast", "/embed_tokens", [rows], found, to=onnx.TensorProto.FLOAT)
    if scaled:
        g.node("Mul", "/embed_tokens", [rows, g.floats("/embed_tokens/scale", spec.embedding_scale)], ["hidden"])
    g.output("hidden", FLOAT, ["batch", "sequence", spec.hidden_size])


def stored_table(embed: onnx.GraphProto, columns: int) -> onnx.TensorProto | StoredNBits:
    """Return the table of an embedding that has been written, floats or quantised, for a head that shares it."""
    tensors = {tensor.name: tensor for tensor in embed.initializer}
    return find(tensors, EMBEDDING, columns) or tensors[EMBEDDING]


def build_layer(g: Graph, spec: DecoderSpec, weights: Weights, i: int, rope: RopeTensors, ops: Ops) -> None:
    """hidden, past keys and values -> hidden_out, present keys and values (in the same memory as the past).

    A model whose rope depends on the length of the sequence (LongRoPE) also has the input `rope_rows`, int64
    [batch, sequence]: the row of the rope tables for each token. It is an input because only the caller knows how long
    the sequence will be once all its chunks have run. Every layer of such a model has the input, even where its own
    rope does not change and the input is unused.
    """
    cache: list[int | str] = ["batch", spec.num_kv_heads, "capacity", spec.cache_head_dim]
    g.input("hidden", FLOAT, ["batch", "sequence", spec.hidden_size])
    for name in ("past_key", "past_value"):
        g.input(name, FLOAT, cache)
    g.input("seqlens_k", np.int32, ["batch"])
    g.input("total_sequence_length", np.int32, [1])
    if spec.rope_switch_length is not None:
        g.input("rope_rows", np.int64, ["batch", "sequence"])

    _Layer(g, spec, weights, i, rope, ops).build()

    g.output("hidden_out", FLOAT, ["batch", "sequence", spec.hidden_size])
    g.output("present_key", FLOAT, cache)
    g.output("present_value", FLOAT, cache)


def build_head(
    g: Graph, spec: DecoderSpec, weights: Weights, tied: onnx.TensorProto | StoredNBits | None, ops: Ops
) -> None:
    """hidden float32 [batch, sequence, hidden_size] -> logits float32 [batch, sequence, vocab].

    Args:
        g: the graph to build.
        spec: describes the model.
        weights: supplies the tensors.
        tied: the embedding's table if the head shares it (see `stored_table`), else None.
        ops: the style of graph.
    """
    g.input("hidden", FLOAT, ["batch", "sequence", spec.hidden_size])
    value = ops.flatten(g, "/head", "hidden", spec.hidden_size)
    value = norm(g, spec, weights, ops, "/norm", FINAL_NORM, value)
    last = [] if ops.flat else ["logits"]
    source = EMBEDDING if spec.tied_embeddings else HEAD
    shape = (spec.vocab_size, spec.hidden_size)
    matrix: Matrix | np.ndarray | Rows = tied if tied is not None else weights.head(source, shape)
    value = product(g, ops, "/lm_head", value, HEAD, matrix, "", [] if spec.logit_softcap else last)
    if spec.logit_softcap:
        value = softcap(g, "/softcap", value, spec.logit_softcap, last)
    if ops.flat:
        ops.unflatten(g, "/head", value, "hidden", spec.vocab_size, ["logits"])
    g.output("logits", FLOAT, ["batch", "sequence", spec.vocab_size])


def norm(
    g: Graph, spec: DecoderSpec, weights: Weights, ops: Ops, name: str, tensor: str, value: str, residual: str = ""
) -> str:
    """Normalise a value, or the sum of it and a residual; that sum is then available as `name/sum`."""
    gamma = g.weight(f"{tensor}.weight", weights.vector(f"{tensor}.weight", spec.hidden_size) + FLOAT(spec.norm_offset))
    if not spec.layer_norm and residual:
        return ops.add_rms_norm(g, name, value, residual, gamma, spec.norm_epsilon, f"{name}/sum")
    if residual:
        value = g.node("Add", f"{name}/residual", [residual, value], [f"{name}/sum"])
    if not spec.layer_norm:
        return ops.rms_norm(g, name, value, gamma, spec.norm_epsilon)
    beta = g.weight(f"{tensor}.bias", weights.vector(f"{tensor}.bias", spec.hidden_size))
    return g.node("LayerNormalization", name, [value, gamma, beta], axis=-1, epsilon=spec.norm_epsilon)


def product(
    g: Graph,
    ops: Ops,
    name: str,
    value: str,
    tensor: str,
    matrix: Matrix | np.ndarray | Rows,
    bias: str = "",
    outputs: Sequence[str] = (),
) -> str:
    """value · matrixᵀ (+ bias). A matrix of floats is first written to the weight file as `tensor`."""
    if isinstance(matrix, (np.ndarray, Rows)):
        matrix = g.weight(tensor, matrix, 4 * matrix.size)
    return ops.product(g, name, value, tensor, matrix, bias, outputs)


class _Layer:
    """One decoder layer while its graph is built."""

    def __init__(self, g: Graph, spec: DecoderSpec, weights: Weights, i: int, rope: RopeTensors, ops: Ops) -> None:
        self.g, self.spec, self.weights, self.ops = g, spec, weights, ops
        self.layer, self.rope = spec.layers[i], rope[spec.layers[i].rope]
        self.name, self.tensor = f"/layers.{i}", f"model.layers.{i}"

    def build(self) -> None:
        """Add all nodes, from `hidden` to `hidden_out`."""
        g, ops, width = self.g, self.ops, self.spec.hidden_size
        hidden = ops.flatten(g, self.name, "hidden", width)
        attended = self.attention(self.norm("input_layernorm", hidden))
        if self.spec.sandwich_norms:
            attended = self.norm("post_attention_layernorm", attended)
            before, after = "pre_feedforward_layernorm", "post_feedforward_layernorm"
        else:
            before, after = "post_attention_layernorm", ""
        value = self.mlp(self.norm(before, attended, hidden))
        if after:
            value = self.norm(after, value)
        last = [] if ops.flat else ["hidden_out"]
        value = g.node("Add", f"{self.name}/mlp/residual", [f"{self.name}/{before}/sum", value], last)
        if ops.flat:
            ops.unflatten(g, self.name, value, "hidden", width, ["hidden_out"])

    def norm(self, which: str, value: str, residual: str = "") -> str:
        """Apply the norm `which` to a value, or to the sum of it and a residual."""
        name, tensor = f"{self.name}/{which}", f"{self.tensor}.{which}"
        return norm(self.g, self.spec, self.weights, self.ops, name, tensor, value, residual)

    def attention(self, normed: str) -> str:
        """Add the projections, rotary attention with the cache, and the output projection."""
        spec, heads, keys = self.spec, self.spec.num_heads, self.spec.num_kv_heads
        inputs = Heads(
            self.linear("self_attn.q_proj", normed, lambda array: pad_heads(array, heads, spec, True)),
            self.linear("self_attn.k_proj", normed, lambda array: pad_heads(array, keys, spec, True)),
            self.linear("self_attn.v_proj", normed, lambda array: pad_heads(array, keys, spec, False)),
            (self.head_norm("q_norm"), self.head_norm("k_norm")) if spec.qk_norm else None,
        )
        attended = self.ops.attention(self.g, f"{self.name}/attn", inputs, spec, self.layer, self.rope)

        # Its columns must match the padded heads.
        padded = spec.cache_head_dim != spec.head_dim
        widen = (lambda array: pad_heads(array, heads, spec, False)) if padded else None
        return self.linear("self_attn.o_proj", attended, arrange_columns=widen)

    def head_norm(self, which: str) -> str:
        """Write the weight of a head norm, adjusted to padded heads; see `norm_heads`."""
        spec, tensor = self.spec, f"{self.tensor}.self_attn.{which}.weight"
        gamma = self.weights.vector(tensor, spec.head_dim) + FLOAT(spec.norm_offset)
        return self.g.weight(tensor, pad_heads(gamma, 1, spec, True) * FLOAT(norm_heads(spec)[0]))

    def mlp(self, normed: str) -> str:
        """down(act(gate) · up), or down(act(up)) without a gate."""
        g, name, spec = self.g, f"{self.name}/mlp", self.spec
        first = self.linear("mlp.gate_proj" if spec.gated_mlp else "mlp.up_proj", normed)
        value = activate(g, f"{name}/act", spec.activation, first)
        if spec.gated_mlp:
            value = g.node("Mul", name, [value, self.linear("mlp.up_proj", normed)])
        return self.linear("mlp.down_proj", value)

    def linear(
        self,
        projection: str,
        value: str,
        arrange_rows: Arrange | None = None,
        arrange_columns: Arrange | None = None,
    ) -> str:
        """value · Wᵀ (+ bias), after rearranging the rows of W and bias, or the columns of W."""
        p = self.spec.projections[projection]
        tensor, source = f"{self.tensor}.{projection}", f"{self.tensor}.{p.tensor}"
        name = f"{self.name}/{projection.replace('self_attn', 'attn').replace('.', '/')}"
        rows = slice(p.first, p.first + p.rows)
        matrix = self.weights.matrix(
            f"{source}.weight", (p.tensor_rows, p.columns), rows, arrange_rows, arrange_columns
        )
        bias = ""
        if p.bias:
            vector = self.weights.vector(f"{source}.bias", p.tensor_rows, rows)
            bias = self.g.weight(f"{tensor}.bias", arrange_rows(vector) if arrange_rows else vector)
        return product(self.g, self.ops, name, value, f"{tensor}.weight", matrix, bias)
