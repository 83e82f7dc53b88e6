"""Phi-3 and Phi-4-mini: fused projections, LongRoPE; some have partial rope or a sliding window."""

from __future__ import annotations

from typing import Any

from .common import read_decoder, uniform_layers
from .fields import not_implemented, number, optional
from .rope import read_rope, rope_parameters
from .spec import DecoderSpec

CONTEXT = 4096
LONG = ("longrope", "su", "yarn")  # different names for the same scaling


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Phi-3 checkpoint."""
    context = number(config, "max_position_embeddings", CONTEXT)
    hidden, heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    head_dim = number(config, "head_dim", hidden // heads)
    rope = rope_parameters(config)
    kind = rope.pop("type", None)
    kind = rope.get("rope_type") or kind or "default"
    if kind not in ("default", *LONG):
        raise not_implemented("rope_type", kind, "default", *LONG)
    rope["rope_type"] = "longrope" if kind in LONG else kind
    original = {"original_max_position_embeddings": number(config, "original_max_position_embeddings", CONTEXT)}
    return read_decoder(
        config,
        "phi3",
        read="sliding_window layer_types",
        context_length=CONTEXT,
        default_epsilon=1e-5,
        partial=1.0,
        ropes={"": read_rope({**config, **original}, head_dim, context, rope, partial=1.0)},
        layers=uniform_layers(config, optional(config, "sliding_window"), context),
        fused=True,
    )
