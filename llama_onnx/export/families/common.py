"""What all families share: the sizes in every configuration, and which layers have a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ModelDirectoryError
from .fields import check_keys, flag, not_implemented, number, require
from .rope import Rope, read_rope, usable_length
from .spec import ACTIVATIONS, DecoderSpec, LayerSpec

FULL, SLIDING = "full_attention", "sliding_attention"


def read_decoder(
    config: Mapping[str, Any],
    family: str,
    *,
    read: str = "",
    context_length: int = 2048,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    norm_epsilon: str = "rms_norm_eps",
    default_epsilon: float = 1e-6,
    tied: bool = False,
    activation: str = "hidden_act",
    default_activation: str = "silu",
    partial: float | None = None,
    ropes: Mapping[str, Rope] | None = None,
    layers: tuple[LayerSpec, ...] | None = None,
    **differences: Any,
) -> DecoderSpec:
    """Return the spec of a model that is like Llama except for the arguments.

    Args:
        config: the fields of `config.json`.
        family: its `model_type`.
        read: names that this family reads in addition to those that every family reads.
        context_length, kv_heads, head_dim, default_epsilon, tied, default_activation: the family's defaults for values
            that the configuration lacks. Without `kv_heads` there are as many as heads; without `head_dim` it is the
            hidden size divided by the heads.
        norm_epsilon, activation: the names of these settings.
        partial: the default fraction of a head that rope rotates; None if this family always rotates whole heads.
        ropes, layers: given if layers differ.
        differences: other fields of `DecoderSpec`.

    Raises:
        ModelDirectoryError: a value is missing, wrong, or changes the maths and is not implemented.
    """
    known = {norm_epsilon, activation, *read.split()} | ({"partial_rotary_factor"} if partial is not None else set())
    check_keys(config, frozenset(known))
    heads, hidden = number(config, "num_attention_heads"), number(config, "hidden_size")
    count = number(config, "num_hidden_layers")
    keys = heads if "num_key_value_heads" in config or kv_heads is None else kv_heads
    size = number(config, "head_dim", head_dim or hidden // heads)
    context = number(config, "max_position_embeddings", context_length)
    act = config.get(activation)
    if act is not None and act not in ACTIVATIONS:
        raise not_implemented(activation, act, *ACTIVATIONS)
    differences.setdefault("attention_scale", size**-0.5)
    return DecoderSpec(
        family=family,
        hidden_size=hidden,
        intermediate_size=number(config, "intermediate_size"),
        num_layers=count,
        num_heads=heads,
        num_kv_heads=number(config, "num_key_value_heads", keys),
        head_dim=size,
        vocab_size=number(config, "vocab_size"),
        # Families with a rope of their own write the lengthened context (Gemma 3, Phi-3).
        context_length=context if ropes else usable_length(config, context_length),
        norm_epsilon=number(config, norm_epsilon, default_epsilon, float),
        tied_embeddings=flag(config, "tie_word_embeddings", tied),
        activation=act or default_activation,
        ropes=ropes or {"": read_rope(config, size, context, partial=partial)},
        layers=layers or (LayerSpec(),) * count,
        **differences,
    )


def layer_types(config: Mapping[str, Any], default: list[str]) -> list[str]:
    """Return the attention type of each layer, FULL or SLIDING: `layer_types`, or the default.

    Raises:
        ModelDirectoryError: the list has the wrong length, or an unknown type.
    """
    types = config.get("layer_types")
    if types is None:
        return default
    if not isinstance(types, list) or len(types) != len(default):
        raise ModelDirectoryError(f"config.json: layer_types does not list {len(default)} layers")
    for kind in types:
        if kind not in (FULL, SLIDING):
            raise not_implemented("layer_types", kind, FULL, SLIDING)
    return types


def uniform_layers(config: Mapping[str, Any], window: int | None, context_length: int) -> tuple[LayerSpec, ...]:
    """Return layers that are all alike, for families without `layer_types`; if the field is there, it must agree."""
    count = number(config, "num_hidden_layers")
    kind = FULL if window is None else SLIDING
    if any(found != kind for found in layer_types(config, [kind] * count)):
        raise not_implemented("layer_types", config["layer_types"], f"{kind} everywhere")
    return (LayerSpec(_reach(window, context_length)),) * count


def mixed_layers(
    types: list[str], window: int | None, context_length: int, ropes: Mapping[str, str] | None = None
) -> tuple[LayerSpec, ...]:
    """Return layers of different types.

    Args:
        types: of each layer, FULL or SLIDING.
        window: of sliding layers.
        context_length: of the model; a window this wide is no window.
        ropes: the name of the rope for each type.
    """
    if SLIDING in types and window is None:
        raise ModelDirectoryError("config.json: layer_types has sliding_attention, but no sliding_window is in use")
    return tuple(
        LayerSpec(_reach(window, context_length) if kind == SLIDING else None, (ropes or {}).get(kind, ""))
        for kind in types
    )


def causal_only(config: Mapping[str, Any]) -> None:
    """Raise ModelDirectoryError if attention is bidirectional."""
    require(config, "use_bidirectional_attention", False)


def _reach(window: int | None, context_length: int) -> int | None:
    return None if window is None or window >= context_length else window
