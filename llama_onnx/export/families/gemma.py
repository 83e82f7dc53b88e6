"""Gemma: embeddings multiplied by sqrt(hidden), norm weights + 1, tanh GELU, tied embeddings, wide heads."""

from __future__ import annotations

from typing import Any

from .common import causal_only, read_decoder, uniform_layers
from .fields import flag, number, require
from .spec import DecoderSpec

CONTEXT = 8192
GELU = "gelu_pytorch_tanh"


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Gemma checkpoint."""
    causal_only(config)
    require(config, "hidden_activation", GELU)
    # The first releases said 'gelu' but meant the tanh approximation.
    config = {**config, "hidden_act": GELU if config.get("hidden_act") == "gelu" else config.get("hidden_act")}
    bias = flag(config, "attention_bias")
    return read_decoder(
        config,
        "gemma",
        read="attention_bias layer_types hidden_activation",
        context_length=CONTEXT,
        kv_heads=16,
        head_dim=256,
        tied=True,
        default_activation=GELU,
        layers=uniform_layers(config, None, number(config, "max_position_embeddings", CONTEXT)),
        norm_offset=1.0,
        embedding_scale=number(config, "hidden_size") ** 0.5,
        qkv_bias=bias,
        output_bias=bias,
    )
