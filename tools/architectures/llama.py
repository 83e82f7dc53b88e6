"""Llama: the reference architecture (RMS norm, rotary GQA attention, gated SiLU MLP)."""

from __future__ import annotations

from typing import Any

from llama_onnx.errors import ModelDirectoryError

from .spec import DecoderSpec, number, require


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a Llama checkpoint."""
    require(config, "hidden_act", "silu")
    require(config, "rope_scaling")
    require(config, "quantization_config")
    rope = config.get("rope_parameters") or {}  # the name newer configurations use
    require(rope, "rope_type", "default")
    require(rope, "partial_rotary_factor", 1.0)
    heads = number(config, "num_attention_heads")
    hidden = number(config, "hidden_size")
    spec = DecoderSpec(
        family="llama",
        hidden_size=hidden,
        intermediate_size=number(config, "intermediate_size"),
        num_layers=number(config, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=number(config, "num_key_value_heads", heads),
        head_dim=number(config, "head_dim", hidden // heads),
        vocab_size=number(config, "vocab_size"),
        context_length=number(config, "max_position_embeddings", 2048),
        norm_epsilon=number(config, "rms_norm_eps", 1e-6, float),
        rope_theta=number(config, "rope_theta", rope.get("rope_theta", 10000.0), float),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
    if heads % spec.num_kv_heads:
        raise ModelDirectoryError(
            f"config.json: {heads} attention heads are not a multiple of {spec.num_kv_heads} key-value heads"
        )
    return spec
