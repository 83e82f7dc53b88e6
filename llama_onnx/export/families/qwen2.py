"""Qwen2 and Qwen2.5: Llama with a bias on queries, keys and values; the upper layers may have a sliding window."""

from __future__ import annotations

from typing import Any

from .common import FULL, SLIDING, layer_types, mixed_layers, read_decoder
from .fields import flag, number, optional
from .rope import usable_length
from .spec import DecoderSpec, LayerSpec

CONTEXT = 32768
READ = "attention_bias layer_types sliding_window use_sliding_window max_window_layers"


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Qwen2 checkpoint."""
    layers = read_layers(config)
    return read_decoder(config, "qwen2", read=READ, context_length=CONTEXT, kv_heads=32, layers=layers, qkv_bias=True)


def read_layers(config: dict[str, Any]) -> tuple[LayerSpec, ...]:
    """Return the layers; from `max_window_layers` on they slide if `use_sliding_window` or `layer_types` says so."""
    window = optional(config, "sliding_window", 4096) if flag(config, "use_sliding_window") else None
    first = config.get("max_window_layers", 28)
    first = number({"max_window_layers": first}, "max_window_layers") if first != 0 else 0
    count = number(config, "num_hidden_layers")
    types = [SLIDING if window is not None and i >= first else FULL for i in range(count)]
    return mixed_layers(layer_types(config, types), window, usable_length(config, CONTEXT))
