"""Makes a `tokenizer.model` (sentencepiece) or `tokenizer.json` (byte-level BPE) from a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ModelDirectoryError
from ..progress import report
from .byte_level import CUTS, byte_level_tokenizer
from .json_files import json_bytes
from .sentencepiece_model import CONTROL, NORMAL, USER_DEFINED, Piece, sentencepiece_model


def tokenizer_files(path: Path, metadata: dict[str, Any], config: dict[str, Any]) -> dict[str, Path | bytes]:
    """Return the files of the tokenizer: those beside the GGUF file if there are any, else made from the metadata.

    Raises:
        ModelDirectoryError: the vocabulary is damaged, or its kind is not supported.
    """
    beside = [path.parent / name for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")]
    files: dict[str, Path | bytes] = {file.name: file for file in beside if file.is_file()}
    if not {"tokenizer.model", "tokenizer.json"} & set(files):
        kind = metadata.get("tokenizer.ggml.model")
        if kind == "llama":
            files["tokenizer.model"] = _sentencepiece(path, metadata)
        elif kind == "gpt2":
            files["tokenizer.json"] = _byte_level_bpe(path, metadata)
        elif kind is None:
            report(f"{path}: has no vocabulary; put the model's tokenizer.model beside it")
        else:
            raise ModelDirectoryError(
                f"{path}: its tokenizer {kind!r} is not supported; put the model's tokenizer.json beside the file"
            )
    if "tokenizer_config.json" not in files:
        files["tokenizer_config.json"] = _tokenizer_config(metadata, config)
    return files


def _tokenizer_config(metadata: dict[str, Any], config: dict[str, Any]) -> bytes:
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", metadata.get("tokenizer.ggml.model") == "llama")
    fields: dict[str, Any] = {"add_bos_token": bool(add_bos) and config["bos_token_id"] is not None}
    for name in ("bos_token", "eos_token"):
        token = metadata.get(f"tokenizer.ggml.{name}_id")
        if isinstance(token, int) and 0 <= token < len(tokens):
            fields[name] = tokens[token]
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        fields["chat_template"] = template
    return json_bytes(fields)


def _vocabulary(path: Path, metadata: dict[str, Any]) -> tuple[list[str], list[float], list[int]]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise ModelDirectoryError(f"{path}: has no list of tokens; put the model's tokenizer files beside it")
    scores = metadata.get("tokenizer.ggml.scores", [0.0] * len(tokens))
    types = metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(scores) != len(tokens) or len(types) != len(tokens):
        raise ModelDirectoryError(f"{path}: its tokens, scores and types differ in number: damaged; download it again")
    return tokens, scores, types


def _sentencepiece(path: Path, metadata: dict[str, Any]) -> bytes:
    pieces = [Piece(*fields) for fields in zip(*_vocabulary(path, metadata), strict=True)]

    def token(name: str) -> int:
        value = metadata.get(f"tokenizer.ggml.{name}_token_id", -1)
        return value if value in range(len(pieces)) and pieces[value].type == CONTROL else -1

    return sentencepiece_model(
        pieces,
        token("bos"),
        token("eos"),
        token("padding"),
        space_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        extra_spaces=not metadata.get("tokenizer.ggml.remove_extra_whitespaces", False),
        charsmap=bytes(byte & 255 for byte in metadata.get("tokenizer.ggml.precompiled_charsmap", [])),
    )


def _byte_level_bpe(path: Path, metadata: dict[str, Any]) -> bytes:
    tokens, _, types = _vocabulary(path, metadata)
    merges, cut = metadata.get("tokenizer.ggml.merges"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    if not isinstance(merges, list) or cut not in CUTS:
        raise ModelDirectoryError(
            f"{path}: its byte-level tokenizer ({cut!r}) is not supported; put the model's tokenizer.json beside it"
        )
    added = {i: kind == CONTROL for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)}
    return byte_level_tokenizer(tokens, merges, cut, added)
