"""Qwen3: Qwen2 with an RMS norm on each head of queries and keys, and biases only if `attention_bias` is set."""

from __future__ import annotations

from typing import Any

from .common import read_decoder
from .fields import flag
from .qwen2 import CONTEXT, READ, read_layers
from .spec import DecoderSpec


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Qwen3 checkpoint."""
    bias = flag(config, "attention_bias")
    return read_decoder(
        config,
        "qwen3",
        read=READ,
        context_length=CONTEXT,
        kv_heads=32,
        head_dim=128,
        layers=read_layers(config),
        qk_norm=True,
        qkv_bias=bias,
        output_bias=bias,
    )
