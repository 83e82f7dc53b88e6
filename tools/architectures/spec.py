"""What a decoder is made of, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_onnx.errors import ModelDirectoryError


@dataclass(frozen=True)
class DecoderSpec:
    """The numbers and choices that decide the maths of a model."""

    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    rope_theta: float
    attention_bias: bool
    mlp_bias: bool
    tied_embeddings: bool

    @property
    def cache_head_dim(self) -> int:
        """Size of a head in the KV cache: the attention kernel takes multiples of 16."""
        return -(-self.head_dim // 16) * 16


def number(config: dict[str, Any], name: str, default: Any = None, kind: type[int] | type[float] = int) -> Any:
    """Return a positive number of `config.json`.

    Raises:
        ModelDirectoryError: missing without a default, not a number, or not above 0.
    """
    value = config.get(name)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
        raise ModelDirectoryError(f"config.json: {name!r} is {value!r}, a number above 0 is needed")
    return kind(value)


def require(config: dict[str, Any], name: str, *allowed: Any) -> None:
    """Raise ModelDirectoryError unless a value of `config.json` is missing, null, or one of those implemented."""
    value = config.get(name)
    if value is not None and value not in allowed:
        known = " or ".join(map(repr, allowed)) or "none"
        raise ModelDirectoryError(f"config.json: {name} = {value!r} is not implemented (known: {known})")
