"""Makes a sentencepiece `tokenizer.model` from a bare vocabulary, as in llama2.c and GGUF files."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelDirectoryError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

# SentencePiece.Type of sentencepiece_model.proto; GGUF uses the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BPE = 2  # TrainerSpec.ModelType
BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Piece:
    """A token: its text (spaces as U+2581), its score (higher scores merge first), its type."""

    text: str
    score: float
    type: int


def sentencepiece_model(
    pieces: Sequence[Piece],
    bos: int = 1,
    eos: int = 2,
    pad: int = -1,
    space_prefix: bool = True,
    extra_spaces: bool = True,
    charsmap: bytes = b"",
) -> bytes:
    """Return the bytes of a ModelProto for a BPE model, with byte fallback if the vocabulary has all byte tokens.

    Args:
        pieces: in the order of their ids; exactly one must be UNKNOWN.
        bos: id of the token that begins a text, or -1.
        eos: id of the token that ends one, or -1.
        pad: id of the padding token, or -1.
        space_prefix: put a space before a text, so that its first word is encoded like any other.
        extra_spaces: keep repeated spaces.
        charsmap: compiled normalisation rules; empty for no normalisation.

    Raises:
        ModelDirectoryError: sentencepiece could not load this vocabulary.
    """
    unknown = [i for i, piece in enumerate(pieces) if piece.type == UNKNOWN]
    if len(unknown) != 1:
        raise ModelDirectoryError(
            f"the vocabulary has {len(unknown)} unknown tokens, but sentencepiece needs exactly one"
        )
    seen: set[str] = set()
    proto = bytearray()
    for i, piece in enumerate(pieces):
        text = piece.text
        if not text or text in seen:  # sentencepiece rejects duplicates, so only the first keeps its text
            text = f"<unused-{i}>"
        seen.add(text)
        kind = piece.type if text == piece.text else UNUSED
        proto += _message(1, _text(1, text) + _float(2, piece.score) + _number(3, kind))
    fallback = sum(piece.type == BYTE for piece in pieces) == 256
    trainer = _number(3, BPE) + _number(4, len(pieces)) + _number(35, fallback) + _number(40, unknown[0])
    trainer += _number(41, bos) + _number(42, eos) + _number(43, pad)
    normalizer = _text(1, "identity" if not charsmap else "user_defined") + (_message(2, charsmap) if charsmap else b"")
    normalizer += _number(3, space_prefix) + _number(4, not extra_spaces) + _number(5, True)
    return bytes(proto + _message(2, trainer) + _message(3, normalizer))


def open_sentencepiece(content: Path | bytes) -> SentencePieceProcessor | None:
    """Open a `tokenizer.model`; None if it is something else, which the runtime does not use either."""
    from sentencepiece import SentencePieceProcessor

    try:
        data = content.read_bytes() if isinstance(content, Path) else content
        return SentencePieceProcessor(model_proto=data) if data else None
    except (RuntimeError, OSError):
        return None


def lacks_tokens(path: Path, fast: dict[str, Any]) -> bool:
    """Return whether a `tokenizer.json` has words of its own, not added ones, beyond those of a `tokenizer.model`."""
    model = fast.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    entries = fast.get("added_tokens")
    added = (
        {entry.get("content") for entry in entries if isinstance(entry, dict)} if isinstance(entries, list) else set()
    )
    processor = open_sentencepiece(path)
    if processor is None:
        return False
    size = processor.get_piece_size()
    if isinstance(words, list):
        return len(words) > size
    return isinstance(words, dict) and any(i not in range(size) and text not in added for text, i in words.items())


# Wire format of protocol buffers: the number and kind of a field, then its value.
def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number as the 64 bits of its complement
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
