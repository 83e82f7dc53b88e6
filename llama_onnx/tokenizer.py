"""Text to token ids and back. Decoding is incremental, so that streamed text equals the text decoded as a whole."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

from .config import ModelConfig
from .errors import ModelDirectoryError

SPACE = "\u2581"  # how sentencepiece writes a space


class Tokenizer:
    """A sentencepiece model with the BOS rule of the model it belongs to."""

    def __init__(self, path: Path, bos_token_id: int | None = None, add_bos: bool = False) -> None:
        """Load `tokenizer.model`.

        Raises:
            ModelDirectoryError: the file is missing or not a sentencepiece model.
        """
        from sentencepiece import SentencePieceProcessor

        if not path.is_file():
            raise ModelDirectoryError(f"{path}: missing; copy the tokenizer of the checkpoint there")
        try:
            self._processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            raise ModelDirectoryError(f"{path}: not a sentencepiece model; copy the checkpoint's own again") from None
        self.bos_token_id = bos_token_id if add_bos else None
        self._bytes: dict[int, bytes] = {}

    @property
    def vocab_size(self) -> int:
        """How many pieces there are."""
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, BOS first where the model wants it."""
        ids = list(self._processor.encode(text))
        return ids if self.bos_token_id is None else [self.bos_token_id, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids. Broken UTF-8 becomes U+FFFD."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.add, ids)) + detokenizer.finish()

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """Return a decoder of a stream that continues `prompt`: with text before it, a leading space is kept."""
        return Detokenizer(self, any(self.token_bytes(token) for token in prompt))

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes a token stands for; control tokens and padding ids stand for nothing."""
        if token not in self._bytes:
            self._bytes[token] = self._piece_bytes(token)
        return self._bytes[token]

    def _piece_bytes(self, token: int) -> bytes:
        if token >= self.vocab_size or self._processor.is_control(token):
            return b""
        piece: str = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])  # '<0x0A>'
        if self._processor.is_unknown(token):
            return " \u2047 ".encode()  # what sentencepiece prints for an unknown piece
        return piece.replace(SPACE, " ").encode()


class Detokenizer:
    """Turns tokens into text as they come, holding back bytes until they make whole characters."""

    def __init__(self, tokenizer: Tokenizer, has_context: bool) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._at_start = not has_context  # sentencepiece puts a space before the first word: not part of the text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """Return the text that became whole with this token, perhaps none."""
        data = self._token_bytes(token)
        if data and self._at_start:
            self._at_start = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return what is left when no more tokens come: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


def load_tokenizer(config: ModelConfig) -> Tokenizer:
    """Load the tokenizer of a model directory and check that it is the model's own.

    Models pad their vocabulary a little, so the tokenizer may have up to 5 % (or 64) pieces fewer, but none more.

    Raises:
        ModelDirectoryError: missing, damaged, or of another vocabulary.
    """
    path = config.directory / "tokenizer.model"
    tokenizer = Tokenizer(path, config.bos_token_id, config.add_bos)
    padding = config.vocab_size - tokenizer.vocab_size
    if not 0 <= padding <= max(64, config.vocab_size // 20):
        raise ModelDirectoryError(
            f"{path}: {tokenizer.vocab_size} pieces, but the model has {config.vocab_size}: it belongs to another "
            "model; copy the checkpoint's own"
        )
    return tokenizer
