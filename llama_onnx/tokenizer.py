"""The interface of a tokenizer (implemented in `text/`), and a detokenizer that streams the same text as `decode`."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from .errors import RequestError


class Tokenizer(ABC):
    """What the runtime needs from a tokenizer, with the BOS rule of the model it belongs to."""

    def __init__(self, bos_token_id: int | None = None) -> None:
        self.bos_token_id = bos_token_id
        self._bytes: dict[int, bytes] = {}

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """One more than the largest id; `base_size` is the same without added tokens."""

    @property
    @abstractmethod
    def base_size(self) -> int: ...

    def encode(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the token ids of a text, after BOS if the model expects it and `add_bos` is set.

        With `special`, the texts of special tokens become their ids; otherwise they are treated as ordinary text.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"the text is not valid Unicode at character {error.start}; give it as UTF-8") from None
        ids = self._encode(text, special)
        return ids if self.bos_token_id is None or not add_bos else [self.bos_token_id, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids without special tokens. Invalid UTF-8 becomes U+FFFD."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.add, ids)) + detokenizer.finish()

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """Return a detokenizer for tokens that follow `prompt`. If the prompt has text, a leading space is kept."""
        return Detokenizer(self, prompt)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of a token; special tokens and padding ids have none."""
        if token not in self._bytes:
            self._bytes[token] = self._token_bytes(token)
        return self._bytes[token]

    def start_bytes(self, token: int) -> tuple[bytes, bool]:
        """Return the bytes of a token at the start of a text, and whether the text has started after it."""
        data = self.token_bytes(token)
        return data, bool(data)

    @abstractmethod
    def _encode(self, text: str, special: bool) -> list[int]: ...

    @abstractmethod
    def _token_bytes(self, token: int) -> bytes: ...


class Detokenizer:
    """Turns tokens into text one by one, and holds bytes back until they form complete characters."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._started = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in prompt:  # it may end inside a character, which the first new tokens complete
            self.add(token)

    def add(self, token: int) -> str:
        """Return the text that this token completes, which may be empty."""
        if self._started:
            data = self._tokenizer.token_bytes(token)
        else:
            data, self._started = self._tokenizer.start_bytes(token)
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return the rest after the last token: U+FFFD if a character was not completed."""
        return self._decoder.decode(b"", final=True)
