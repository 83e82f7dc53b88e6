"""`tokenizer.model`: a sentencepiece model and its added tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelDirectoryError
from .added_tokens import AddedToken, TokenizerFiles
from .control import ControlTokens, TextTokenizer

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPACE = "\u2581"  # how sentencepiece writes a space
UNKNOWN_TEXT = " \u2047 ".encode()  # how sentencepiece decodes an unknown piece
# Protobuf for `normalizer_spec { add_dummy_prefix: false }`: appended to a model, it overrides that one field.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceTokenizer(TextTokenizer):
    """A sentencepiece model and its added tokens."""

    def __init__(self, path: Path, bos_token_id: int | None = None, files: TokenizerFiles | None = None) -> None:
        """Load `tokenizer.model`.

        Args:
            path: the file `tokenizer.model`.
            bos_token_id: the token to put before each text; None for no token.
            files: the added tokens.

        Raises:
            ModelDirectoryError: the file is missing or not a sentencepiece model.
        """
        super().__init__(bos_token_id)
        files = files or TokenizerFiles()
        self._path, self._processor = path, _load_sentencepiece(path)
        self._base_size = int(self._processor.get_piece_size())
        # Sentencepiece itself finds the tokens that are left out here.
        self._added = {t.id: t for t in files.added if t.special or t.id >= self._base_size}
        for i in range(self._base_size):  # control pieces are special tokens even if no file lists them
            if self._processor.is_control(i) and i not in self._added:
                self._added[i] = AddedToken(i, self._processor.id_to_piece(i), special=True)
        unknown = self._processor.unk_id()  # its name is the token itself in the output of a template, as in llama.cpp
        added = [*self._added.values(), AddedToken(unknown, self._processor.id_to_piece(unknown), special=True)]
        self._control = ControlTokens(token for token in added if token.special)
        self._splitters = {True: ControlTokens(added), False: ControlTokens(t for t in added if not t.special)}
        self._strip = _leading_spaces_stripped(self._processor)
        prefixes = "".join(self._processor.encode("a", out_type=str)).startswith(SPACE)
        self._unprefixed = None if prefixes and not files.prefixes_every_part else self._processor

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max([self._base_size, *(i + 1 for i in self._added)])

    @property
    def base_size(self) -> int:
        """The number of pieces."""
        return self._base_size

    def start_bytes(self, token: int) -> tuple[bytes, bool]:
        """Return the bytes of a token at the start of a text, and whether any text precedes the next token."""
        data = self.token_bytes(token)
        if not self._strip or not data or token in self._added or self._processor.is_byte(token):
            return data, bool(data)
        if self._processor.is_unknown(token) or not data.startswith(b" "):
            return data, True
        return data[1:], bool(data[1:]) or self._strip == 1

    @property
    def control(self) -> ControlTokens:
        """The tokens that are ids in the output of a template, and text in a message."""
        return self._control

    def _encode(self, text: str, special: bool) -> list[int]:
        return self._encode_with(self._splitters[special], text, True)

    def _encode_part(self, text: str, first: bool) -> list[int]:
        return self._encode_with(self._splitters[False], text, first)

    def _encode_with(self, splitter: ControlTokens, text: str, first: bool) -> list[int]:
        ids: list[int] = []
        processor = self._processor if first else self._continuing()
        for part in splitter.split(text):
            ids += [part] if isinstance(part, int) else processor.encode(part)
            processor = self._continuing()
        return ids

    def _continuing(self) -> SentencePieceProcessor:
        """Return the processor for text after an added token, which gets no leading space (as in transformers)."""
        if self._unprefixed is None:
            self._unprefixed = _load_sentencepiece(self._path, NO_DUMMY_PREFIX)
        return self._unprefixed

    def _token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return b"" if self._added[token].special else self._added[token].text.encode()
        if not 0 <= token < self._base_size:
            return b""
        piece: str = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])  # '<0x0A>'
        return UNKNOWN_TEXT if self._processor.is_unknown(token) else piece.replace(SPACE, " ").encode()


def _load_sentencepiece(path: Path, override: bytes = b"") -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        model = path.read_bytes()
        if not model:  # sentencepiece would take an empty model to mean "load later"
            raise ValueError("empty")
        return SentencePieceProcessor(model_proto=model + override)
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path}: missing; copy the tokenizer from the checkpoint") from None
    except (RuntimeError, OSError, ValueError):
        raise ModelDirectoryError(f"{path}: not a sentencepiece model; copy it from the checkpoint again") from None


def _leading_spaces_stripped(processor: SentencePieceProcessor) -> int:
    """Return how many of 2 leading spaces the model drops when it decodes (0 to 2), by decoding a test."""
    space = processor.piece_to_id(SPACE)
    if not processor.is_unknown(space):
        return 2 - len(processor.decode([space, space]))
    word = next((i for i in range(processor.get_piece_size()) if processor.id_to_piece(i).startswith(SPACE)), None)
    return 0 if word is None or processor.decode([word]).startswith(" ") else 1
