"""Gemma 3 (text): Gemma 2 with QK-norm instead of attention soft-caps, and a separate rope for sliding layers."""

from __future__ import annotations

from typing import Any

from ...errors import ModelDirectoryError
from .common import FULL, SLIDING, causal_only, layer_types, mixed_layers, read_decoder
from .fields import flag, number, optional, require
from .gemma import GELU
from .rope import Rope, read_rope
from .spec import DecoderSpec

CONTEXT, HEAD_DIM = 131072, 256
LOCAL = "local"  # the rope of sliding layers


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Gemma 3 text checkpoint."""
    causal_only(config)
    require(config, "hidden_act", config.get("hidden_activation") or GELU, "gelu")
    require(config, "attn_logit_softcapping")  # transformers ignores it, other programs do not
    bias = flag(config, "attention_bias")
    context = number(config, "max_position_embeddings", CONTEXT)
    pattern = number(config, "sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    count = number(config, "num_hidden_layers")
    types = layer_types(config, [SLIDING if (i + 1) % pattern else FULL for i in range(count)])
    return read_decoder(
        config,
        "gemma3_text",
        read="attention_bias layer_types sliding_window sliding_window_pattern _sliding_window_pattern hidden_act "
        "query_pre_attn_scalar final_logit_softcapping rope_local_base_freq",
        context_length=CONTEXT,
        kv_heads=4,
        head_dim=HEAD_DIM,
        tied=True,
        activation="hidden_activation",
        default_activation=GELU,
        ropes=_ropes(config, context),
        layers=mixed_layers(types, optional(config, "sliding_window", 4096), context, {SLIDING: LOCAL}),
        norm_offset=1.0,
        sandwich_norms=True,
        qk_norm=True,
        embedding_scale=number(config, "hidden_size") ** 0.5,
        attention_scale=number(config, "query_pre_attn_scalar", 256, float) ** -0.5,
        logit_softcap=optional(config, "final_logit_softcapping", None, float) or 0.0,
        qkv_bias=bias,
        output_bias=bias,
    )


def _ropes(config: dict[str, Any], context: int) -> dict[str, Rope]:
    """Return a rope for each type of layer. Classic configurations scale only that of full attention."""
    by_type = config.get("rope_parameters") or {}
    if not set(by_type) <= {FULL, SLIDING}:
        raise ModelDirectoryError(f"config.json: rope_parameters must be given for {FULL} and {SLIDING}")
    full, local = ({**(by_type.get(kind) or {})} for kind in (FULL, SLIDING))
    full.update(config.get("rope_scaling") or {})
    for rope, name, theta in ((full, "rope_theta", 1e6), (local, "rope_local_base_freq", 10000.0)):
        if rope.get("rope_theta") is None:
            rope["rope_theta"] = number(config, name, theta, float)
        require(rope, "truncate", True)  # transformers ignores it in ropes by layer type
    head_dim = number(config, "head_dim", HEAD_DIM)
    return {"": read_rope(config, head_dim, context, full), LOCAL: read_rope(config, head_dim, context, local)}
