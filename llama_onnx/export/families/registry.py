"""The supported families by the `model_type` in their `config.json`."""

from __future__ import annotations

from typing import Any

from ...errors import ModelDirectoryError
from . import gemma, gemma2, gemma3, llama, mistral, nemotron, phi3, qwen2, qwen3
from .spec import DecoderSpec

FAMILIES = {
    "gemma": gemma.read_spec,
    "gemma2": gemma2.read_spec,
    "gemma3_text": gemma3.read_spec,
    "llama": llama.read_spec,
    "mistral": mistral.read_spec,
    "nemotron": nemotron.read_spec,
    "phi3": phi3.read_spec,
    "qwen2": qwen2.read_spec,
    "qwen3": qwen3.read_spec,
}


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a checkpoint from its `config.json`.

    Raises:
        ModelDirectoryError: the architecture is not supported, or a value is not implemented.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelDirectoryError(
            f"config.json: architecture {family!r} is not known; use one of {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[family](config)
