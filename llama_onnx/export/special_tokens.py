"""Which tokens begin and end a text, where the files of a checkpoint disagree."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

from ..errors import ModelDirectoryError
from ..text.added_tokens import FAST, parse_tokenizer_files
from .checkpoint import Checkpoint
from .readers.json_files import auxiliary_json
from .readers.sentencepiece_model import open_sentencepiece


def special_tokens(checkpoint: Checkpoint, vocab_size: int) -> tuple[int | None, list[int]]:
    """Return the id of BOS, if there is one, and the ids of the tokens that end a text.

    The tokenizer's own `bos_token` is BOS. The end tokens are those of `config.json`, `generation_config.json` and the
    tokenizer together: in many models, only one of the three names the end of a turn.

    Raises:
        ModelDirectoryError: an id is not in the vocabulary.
    """
    generation = auxiliary_json(checkpoint, "generation_config.json")
    bos = generation.get("bos_token_id", checkpoint.config.get("bos_token_id"))
    ends = [token for fields in (generation, checkpoint.config) for token in _listed(fields.get("eos_token_id"))]
    for token in (*ends, *([] if bos is None else [bos])):
        if not isinstance(token, int) or not 0 <= token < vocab_size:
            raise ModelDirectoryError(f"config.json: special token id {token!r} is not in the vocabulary")
    content = checkpoint.files.get("tokenizer.model")
    processor = open_sentencepiece(content) if content is not None else None
    if processor is not None and bos == processor.unk_id() != processor.bos_id() >= 0:
        # The ids of the first converted LLaMA checkpoints are one too low; the sentencepiece model knows better.
        bos = processor.bos_id()
        ends = [processor.eos_id() if token == bos else token for token in ends]
    named = _named_tokens(checkpoint, processor)
    if named.get("bos_token", vocab_size) < vocab_size:
        bos = named["bos_token"]
    if named.get("eos_token", vocab_size) < vocab_size:
        ends.append(named["eos_token"])
    return bos, list(dict.fromkeys(ends))


def _named_tokens(checkpoint: Checkpoint, processor: Any) -> dict[str, int]:
    """Return the ids of the tokens that the tokenizer's files name: {'bos_token': 1, …}."""
    read = cache(partial(auxiliary_json, checkpoint))  # tokenizer.json may have 30 MB
    files = parse_tokenizer_files(read, Path())
    if processor is None:
        model = read(FAST).get("model")
        words = model.get("vocab") if isinstance(model, dict) else None
        id_of = {text: i for text, i in words.items() if isinstance(i, int)} if isinstance(words, dict) else {}
    else:
        pieces = {text: processor.piece_to_id(text) for text in files.special_texts.values()}
        id_of = {text: i for text, i in pieces.items() if processor.id_to_piece(i) == text}
    id_of |= {token.text: token.id for token in files.added}
    return {name: id_of[text] for name, text in files.special_texts.items() if text in id_of}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
