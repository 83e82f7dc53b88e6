"""Llama 1 to 3.2 and models built like it: RMS norm, rotary GQA attention, gated SiLU MLP."""

from __future__ import annotations

from typing import Any

from .common import read_decoder, uniform_layers
from .fields import flag, number
from .spec import DecoderSpec

CONTEXT = 2048


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Llama checkpoint."""
    bias = flag(config, "attention_bias")
    return read_decoder(
        config,
        "llama",
        read="attention_bias mlp_bias layer_types",
        context_length=CONTEXT,
        layers=uniform_layers(config, None, number(config, "max_position_embeddings", CONTEXT)),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=flag(config, "mlp_bias"),
    )
