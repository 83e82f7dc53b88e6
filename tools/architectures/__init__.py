"""One small file per model family: each reads its `config.json` into a `DecoderSpec`; `blocks` builds the graphs."""

from __future__ import annotations

from typing import Any

from llama_onnx.errors import ModelDirectoryError

from . import llama
from .spec import DecoderSpec

FAMILIES = {"llama": llama.read_spec}


def read_spec(config: dict[str, Any]) -> DecoderSpec:
    """Return the spec of a checkpoint from its `config.json`.

    Raises:
        ModelDirectoryError: an architecture that is not known, or a value that is not implemented.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelDirectoryError(
            f"config.json: architecture {family!r} is not known; these are: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[family](config)
