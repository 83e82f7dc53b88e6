"""Reads the JSON objects of a checkpoint, and makes them for formats that lack them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import ModelDirectoryError
from ..checkpoint import Checkpoint


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelDirectoryError: the file is missing or not a JSON object.
    """
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path}: missing; is this a Hugging Face checkpoint?") from None
    except OSError as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error.strerror})") from None


def auxiliary_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Return a JSON object among the auxiliary files of a checkpoint, or {} if there is no such file.

    Raises:
        ModelDirectoryError: the file is not a JSON object.
    """
    content = checkpoint.files.get(name)
    if content is None:
        return {}
    return read_json(content) if isinstance(content, Path) else _parse(content, name)


def json_bytes(fields: dict[str, Any]) -> bytes:
    """Return the bytes of a JSON file for `Checkpoint.files`, such as a config.json for a format that has none."""
    return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode()


def _parse(content: bytes, where: str | Path) -> dict[str, Any]:
    try:
        fields = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ModelDirectoryError(f"{where}: cannot be read ({error}); download it again") from None
    if not isinstance(fields, dict):
        raise ModelDirectoryError(f"{where}: not a JSON object; download it again")
    return fields


def read_text_config(path: Path) -> dict[str, Any]:
    """Return `config.json`; of a model with several parts, what it says of the language model in `text_config`.

    Raises:
        ModelDirectoryError: see `read_json`.
    """
    config = read_json(path)
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    outer = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config")
    return {name: config[name] for name in outer if name in config} | text
