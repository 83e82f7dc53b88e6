"""Real models, kept in the user's cache folder between runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models import model

FETCHED = ("smollm2-135m", "gemma3-270m")  # the others are used where somebody has put them into the folder


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """Return the file of a real model; skip the test if it cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("LLAMA_ONNX_REAL_MODELS") or cache / "llama_onnx" / "real-models")

    def get(name: str) -> Path:
        path = folder / f"{name}.gguf"
        if name not in FETCHED and not path.is_file():
            pytest.skip(f"{path} is not there; tests/real/models.py fetches it")
        try:
            return model(name, folder)
        except OSError as error:
            pytest.skip(f"{name} cannot be had: {error}")

    return get
