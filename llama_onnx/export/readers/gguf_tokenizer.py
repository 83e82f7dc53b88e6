"""Makes a `tokenizer.model` (sentencepiece) or `tokenizer.json` (byte-level BPE) from a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ModelDirectoryError
from ..progress import report
from .byte_level import byte_level_tokenizer
from .gguf_special import adds_bos, end_ids, token_id
from .json_files import json_bytes
from .pre_tokenizers import RULE_OF, rule_name
from .sentencepiece_model import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, sentencepiece_model

KEEP_BREAKS = ("<unk>", "<s>", "<|endoftext|>")  # the special tokens of Phi-3 that leave the white space after them


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
    fields: dict[str, Any] = {"add_bos_token": adds_bos(metadata)}
    for name in ("bos", "eos"):
        token = token_id(metadata, name)
        if token is not None and token < len(tokens):
            fields[f"{name}_token"] = tokens[token]
    if metadata.get("tokenizer.ggml.model") == "llama":
        # llama.cpp puts a space before the text after a special token too, as transformers does where this is set.
        fields["legacy"] = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    if metadata.get("general.architecture") == "phi3" and metadata.get("tokenizer.ggml.model") == "llama":
        # Phi-3's own file says so; GGUF cannot.
        types = metadata.get("tokenizer.ggml.token_type", [])
        fields["added_tokens_decoder"] = {
            str(i): {"content": text, "special": True, "rstrip": text not in KEEP_BREAKS}
            for i, (text, kind) in enumerate(zip(tokens, types, strict=False))
            if kind == CONTROL or text == "</s>"
        }
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
    unknown, ends = token_id(metadata, "unknown"), set(end_ids(metadata))

    def piece(i: int, text: str, score: float, kind: int) -> Piece:
        if i == unknown:
            kind = UNKNOWN
        elif kind == UNKNOWN or (i in ends and kind in (NORMAL, USER_DEFINED)):
            kind = CONTROL  # an end token decodes to nothing, whatever its type
        # A run of spaces is written with plain spaces in some files (Gemma), but found in a text of U+2581.
        return Piece(text.replace(" ", "\u2581") if kind == USER_DEFINED else text, score, kind)

    pieces = [piece(i, *fields) for i, fields in enumerate(zip(*_vocabulary(path, metadata), strict=True))]

    def token(name: str) -> int:
        value = token_id(metadata, name)
        return value if value is not None and pieces[value].type == CONTROL else -1

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
    merges, (cut, said) = metadata.get("tokenizer.ggml.merges"), rule_name(metadata)
    if not isinstance(merges, list) or cut not in RULE_OF:
        raise ModelDirectoryError(
            f"{path}: its byte-level tokenizer ({cut!r}) is not supported; put the model's tokenizer.json beside it"
        )
    if not said:
        report(
            f"{path}: does not say how a text is cut (tokenizer.ggml.pre); GPT-2's rule is taken. If the model learned "
            "another one, put its tokenizer.json beside the file"
        )
    ends = set(end_ids(metadata))
    added = {
        i: kind == CONTROL or i in ends for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED) or i in ends
    }
    return byte_level_tokenizer(tokens, merges, cut, added)
