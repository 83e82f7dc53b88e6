"""Nemotron and Minitron: LayerNorm with weight + 1 and bias, relu² MLP without a gate, partial rope."""

from __future__ import annotations

from typing import Any

from .common import read_decoder, uniform_layers
from .fields import flag, number, require
from .rope import rope_parameters
from .spec import DecoderSpec

CONTEXT, PARTIAL = 4096, 0.5


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Nemotron checkpoint."""
    bias = flag(config, "attention_bias")
    require(config, "rope_percent", number(rope_parameters(config), "partial_rotary_factor", PARTIAL, float))
    return read_decoder(
        config,
        "nemotron",
        read="attention_bias mlp_bias layer_types rope_percent",
        context_length=CONTEXT,
        norm_epsilon="norm_eps",
        default_epsilon=1e-5,
        default_activation="relu2",
        partial=PARTIAL,
        layers=uniform_layers(config, None, number(config, "max_position_embeddings", CONTEXT)),
        layer_norm=True,
        norm_offset=1.0,
        gated_mlp=False,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=flag(config, "mlp_bias"),
    )
