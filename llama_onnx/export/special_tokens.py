"""Which tokens begin and end a text, where the files of a checkpoint disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelDirectoryError
from .checkpoint import Checkpoint
from .readers.json_files import auxiliary_json


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
    texts = _named(checkpoint)
    pieces = _Pieces(checkpoint)
    if pieces.processor is not None and bos == pieces.processor.unk_id() != pieces.processor.bos_id() >= 0:
        # The ids of the first converted LLaMA checkpoints are one too low; the sentencepiece model knows better.
        bos = pieces.processor.bos_id()
        ends = [pieces.processor.eos_id() if token == bos else token for token in ends]
    named_bos, named_end = (pieces.find(texts.get(name)) for name in ("bos_token", "eos_token"))
    if named_bos is not None and named_bos < vocab_size:
        bos = named_bos
    if named_end is not None and named_end < vocab_size:
        ends.append(named_end)
    return bos, list(dict.fromkeys(ends))


class _Pieces:
    """Finds a token by its text in the files of a tokenizer."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        config = auxiliary_json(checkpoint, "tokenizer_config.json")
        self.ids: dict[str, int] = {}
        self.processor = _sentencepiece(checkpoint.files.get("tokenizer.model"))
        fast = auxiliary_json(checkpoint, "tokenizer.json")
        model = fast.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, dict) and self.processor is None:
            self.ids |= {text: i for text, i in vocabulary.items() if isinstance(i, int)}
        self.ids |= {t: i for t, i in auxiliary_json(checkpoint, "added_tokens.json").items() if isinstance(i, int)}
        for entry in _listed(fast.get("added_tokens")):
            if isinstance(entry, dict) and isinstance(entry.get("id"), int) and isinstance(entry.get("content"), str):
                self.ids[entry["content"]] = entry["id"]
        decoder = config.get("added_tokens_decoder")
        for i, entry in decoder.items() if isinstance(decoder, dict) else ():
            if isinstance(entry, dict) and isinstance(entry.get("content"), str) and i.isdecimal():
                self.ids[entry["content"]] = int(i)

    def find(self, text: str | None) -> int | None:
        """Return the id of a token, None if there is none of this text."""
        if not text:
            return None
        if text in self.ids:
            return self.ids[text]
        if self.processor is None:
            return None
        piece = self.processor.piece_to_id(text)
        return None if piece == self.processor.unk_id() and text != self.processor.id_to_piece(piece) else int(piece)


def _sentencepiece(content: Path | bytes | None) -> Any:
    """Return the sentencepiece model of a checkpoint; None if there is none, or the file is something else."""
    if content is None:
        return None
    from sentencepiece import SentencePieceProcessor

    try:
        data = content.read_bytes() if isinstance(content, Path) else content
        return SentencePieceProcessor(model_proto=data) if data else None
    except (RuntimeError, OSError):
        return None


def _named(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the texts of `bos_token` and `eos_token`."""
    texts = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in auxiliary_json(checkpoint, name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key in ("bos_token", "eos_token") and isinstance(text, str):
                texts[key] = text
    return texts


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
