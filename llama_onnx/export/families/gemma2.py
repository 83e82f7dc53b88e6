"""Gemma 2: Gemma with norms before and after each block, soft-caps, its own attention scale, alternating windows."""

from __future__ import annotations

from typing import Any

from .common import FULL, SLIDING, causal_only, layer_types, mixed_layers, read_decoder
from .fields import flag, number, optional, require
from .gemma import GELU
from .spec import DecoderSpec

CONTEXT = 8192


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Gemma 2 checkpoint."""
    causal_only(config)
    require(config, "hidden_act", config.get("hidden_activation") or GELU, "gelu")
    bias = flag(config, "attention_bias")
    context = number(config, "max_position_embeddings", CONTEXT)
    types = layer_types(config, [FULL if i % 2 else SLIDING for i in range(number(config, "num_hidden_layers"))])
    return read_decoder(
        config,
        "gemma2",
        read="attention_bias layer_types sliding_window hidden_act query_pre_attn_scalar attn_logit_softcapping "
        "final_logit_softcapping",
        context_length=CONTEXT,
        kv_heads=4,
        head_dim=256,
        tied=True,
        activation="hidden_activation",
        default_activation=GELU,
        layers=mixed_layers(types, optional(config, "sliding_window", 4096), context),
        norm_offset=1.0,
        sandwich_norms=True,
        embedding_scale=number(config, "hidden_size") ** 0.5,
        attention_scale=number(config, "query_pre_attn_scalar", 256, float) ** -0.5,
        attention_softcap=optional(config, "attn_logit_softcapping", 50.0, float) or 0.0,
        logit_softcap=optional(config, "final_logit_softcapping", 30.0, float) or 0.0,
        qkv_bias=bias,
        output_bias=bias,
    )
