"""Describes a decoder of any family: its sizes, its variations and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import ModelDirectoryError
from .rope import Rope

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm"
# Names that transformers gives to activations of the MLP.
ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "relu", "relu2")


@dataclass(frozen=True)
class LayerSpec:
    """What may differ between layers.

    `window`: how many positions attention reaches back, including the token itself, or None for all. `rope`: the name
    of the layer's rope.
    """

    window: int | None = None
    rope: str = ""


@dataclass(frozen=True)
class Projection:
    """A linear layer: rows `first … first + rows` of the checkpoint's `tensor` [tensor_rows, columns]."""

    tensor: str
    rows: int
    columns: int
    bias: bool
    first: int
    tensor_rows: int


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """The sizes and choices that define the maths of a model.

    Attributes:
        activation: of the MLP, one of `ACTIVATIONS`.
        gated_mlp: down(act(gate(x)) · up(x)); otherwise down(act(up(x))).
        layer_norm: LayerNorm with bias instead of RMS norm.
        norm_offset: added to every norm weight.
        sandwich_norms: norms both before and after attention and MLP.
        qk_norm: RMS norm of each head of queries and keys.
        fused: the checkpoint has q, k, v in one tensor and gate, up in another.
        attention_scale: factor of the products of queries and keys.
        attention_softcap, logit_softcap: c in c · tanh(x / c), 0 for none.
        embedding_scale: factor of embeddings.
        ropes: by name.
        layers: one entry for each layer.
    """

    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    tied_embeddings: bool
    ropes: Mapping[str, Rope]
    layers: tuple[LayerSpec, ...]
    attention_scale: float
    activation: str = "silu"
    gated_mlp: bool = True
    layer_norm: bool = False
    norm_offset: float = 0.0
    sandwich_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    fused: bool = False
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ModelDirectoryError(
                f"config.json: {self.num_heads} attention heads are not a multiple of "
                f"{self.num_kv_heads} key-value heads"
            )

    @property
    def rope(self) -> Rope:
        """One of the ropes; all rotate the same dimensions."""
        return next(iter(self.ropes.values()))

    @property
    def cache_head_dim(self) -> int:
        """Size of a head in the KV cache: the attention kernel needs multiples of 16."""
        size = self.head_dim + 2 * (self.rope.columns - self.rope.half)
        return -(-size // 16) * 16

    @property
    def rope_switch_length(self) -> int | None:
        """The sequence length beyond which the long rope factors are used (LongRoPE), or None."""
        used = {layer.rope for layer in self.layers}
        return next((r.switch_length for name, r in self.ropes.items() if name in used and r.switch_length), None)

    @property
    def projections(self) -> dict[str, Projection]:
        """The linear layers of a decoder layer by their names in Llama checkpoints."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        hidden, wide = self.hidden_size, self.intermediate_size
        shapes = {
            "self_attn.q_proj": (queries, hidden, self.qkv_bias),
            "self_attn.k_proj": (keys, hidden, self.qkv_bias),
            "self_attn.v_proj": (keys, hidden, self.qkv_bias),
            "self_attn.o_proj": (hidden, queries, self.output_bias),
            "mlp.gate_proj": (wide, hidden, self.mlp_bias),
            "mlp.up_proj": (wide, hidden, self.mlp_bias),
            "mlp.down_proj": (hidden, wide, self.mlp_bias),
        }
        if not self.gated_mlp:
            del shapes["mlp.gate_proj"]
        qkv, gate_up = ("self_attn.qkv_proj", queries + 2 * keys), ("mlp.gate_up_proj", 2 * wide)
        places = {
            "self_attn.q_proj": (*qkv, 0),
            "self_attn.k_proj": (*qkv, queries),
            "self_attn.v_proj": (*qkv, queries + keys),
            "mlp.gate_proj": (*gate_up, 0),
            "mlp.up_proj": (*gate_up, wide),
        }
        table = {}
        for name, (rows, columns, bias) in shapes.items():
            tensor, tensor_rows, first = places[name] if self.fused and name in places else (name, rows, 0)
            table[name] = Projection(tensor, rows, columns, bias, first, tensor_rows)
        return table

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the norms of a layer, without those of heads."""
        more = ("pre_feedforward_layernorm", "post_feedforward_layernorm") if self.sandwich_norms else ()
        return ("input_layernorm", "post_attention_layernorm", *more)


def expected_names(spec: DecoderSpec) -> frozenset[str]:
    """Return the names of all tensors that the graphs read."""
    names = {EMBEDDING} | (set() if spec.tied_embeddings else {HEAD})
    norms = [FINAL_NORM]
    for i in range(spec.num_layers):
        layer = f"model.layers.{i}."
        norms += [layer + norm for norm in spec.norms]
        names |= {f"{layer}self_attn.{x}_norm.weight" for x in "qk" if spec.qk_norm}
        for projection in spec.projections.values():
            names.add(f"{layer}{projection.tensor}.weight")
            if projection.bias:
                names.add(f"{layer}{projection.tensor}.bias")
    names |= {f"{norm}.weight" for norm in norms}
    names |= {f"{norm}.bias" for norm in norms if spec.layer_norm}
    return frozenset(names)
