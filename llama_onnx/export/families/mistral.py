"""Mistral: Llama with a sliding window in every layer, unless `sliding_window` is null."""

from __future__ import annotations

from typing import Any

from .common import read_decoder, uniform_layers
from .fields import optional
from .rope import usable_length
from .spec import DecoderSpec

CONTEXT, WINDOW = 4096 * 32, 4096


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Mistral checkpoint."""
    context = usable_length(config, CONTEXT)
    window = None if config.get("use_sliding_window") is False else optional(config, "sliding_window", WINDOW)
    return read_decoder(
        config,
        "mistral",
        read="sliding_window use_sliding_window layer_types",
        context_length=CONTEXT,
        kv_heads=8,
        layers=uniform_layers(config, window, context),
    )
