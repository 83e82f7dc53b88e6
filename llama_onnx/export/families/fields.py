"""Reads typed values from `config.json`, and rejects settings that would change the maths and are not implemented."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...errors import ModelDirectoryError

# Parts of the names of settings that change the maths. A setting is rejected if its name matches, it is switched on,
# its family does not read it, and it is not known to be harmless.
MATHS = re.compile(
    "rope|rotary|alibi|att|window|norm|softcap|scal|multiplier|clip|bias|qk|expert|moe|router|mask|act$|activation"
    "|residual|position|interleav|sink|mup|mlp|ffn|emb|layer|head|logit|lora|adapter|cross|chunk|swiglu|parallel"
)
# Read by every family, or meant only for training or for other programs.
HARMLESS = frozenset(
    """
    hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size
    max_position_embeddings rope_theta rope_scaling rope_parameters original_max_position_embeddings tie_word_embeddings
    attention_dropout attention_probs_dropout_prob attn_pdrop embd_pdrop resid_pdrop embedding_dropout hidden_dropout
    layerdrop attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal
    experts_implementation _experts_implementation _flash_attn_2_enabled use_flash_attn use_flash_attention
    use_flash_attention_2 flash_attn use_flash_attn_2 output_attentions num_logits_to_keep logits_to_keep
    router_aux_loss_coef gradient_checkpointing use_fused_rms_norm use_fused_rope use_fused_mlp fused_mlp
    mask_token_id masked_softmax_fusion ffn_dim_multiplier position_embedding_type
    """.split()
)
NEUTRAL_AT_ONE = ("multiplier", "factor", "scale", "scaling", "_mod")


def number(config: Mapping[str, Any], name: str, default: Any = None, kind: type[int] | type[float] = int) -> Any:
    """Return a positive number of `config.json`.

    Raises:
        ModelDirectoryError: missing without a default, not a number, or not above 0.
    """
    value = config.get(name)
    if value is None:
        value = default
    wrong = isinstance(value, bool) or not isinstance(value, (int, kind))
    if wrong or not (value > 0 and math.isfinite(value)):
        raise ModelDirectoryError(f"config.json: {name!r} is {value!r}, but must be a number above 0")
    return kind(value)


def optional(config: Mapping[str, Any], name: str, default: Any = None, kind: type[int] | type[float] = int) -> Any:
    """Return a positive number, or None if `config.json` says null; `default` if it is missing."""
    value = config.get(name, default)
    return None if value is None else number(config, name, default, kind)


def flag(config: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """Return a boolean of `config.json`.

    Raises:
        ModelDirectoryError: it is not a boolean.
    """
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ModelDirectoryError(f"config.json: {name!r} is {value!r}, but must be true or false")
    return value


def require(config: Mapping[str, Any], name: str, *allowed: Any) -> None:
    """Raise ModelDirectoryError unless a value of `config.json` is missing, null, or one of `allowed`."""
    value = config.get(name)
    if value is not None and value not in allowed:
        raise not_implemented(name, value, *allowed)


def not_implemented(name: str, value: Any, *allowed: Any) -> ModelDirectoryError:
    """Return the error for a value that is not implemented."""
    known = " or ".join(map(repr, allowed)) or "none"
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:60]}…"
    return ModelDirectoryError(f"config.json: {name} = {text} is not implemented (known: {known})")


def check_keys(config: Mapping[str, Any], read: frozenset[str]) -> None:
    """Raise ModelDirectoryError if a setting may change the maths and the family does not read it.

    Args:
        config: the fields of `config.json`.
        read: the names that this family reads in addition to those that every family reads.
    """
    require(config, "quantization_config")
    require(config, "position_embedding_type", "rope", "rotary")
    unused = {"sliding_window", "max_window_layers"} if config.get("use_sliding_window") is False else set()
    for name, value in config.items():
        if name in HARMLESS or name in read or name in unused or not MATHS.search(name):
            continue
        neutral = value == 1 and name.endswith(NEUTRAL_AT_ONE)
        if value in (None, False, 0, "", [], {}) or neutral:
            continue
        raise not_implemented(name, value)
