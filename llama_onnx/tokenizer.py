"""The interface of a tokenizer (its kinds are in `text/`), and the detokenizer: text is the same when streamed."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from .errors import RequestError


class Tokenizer(ABC):
    """What the runtime needs of a tokenizer, with the BOS rule of the model it belongs to."""

    def __init__(self, bos_token_id: int | None = None) -> None:
        self.bos_token_id = bos_token_id
        self._bytes: dict[int, bytes] = {}

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """One more than the largest id; `base_size` is that of the tokens that were not added."""

    @property
    @abstractmethod
    def base_size(self) -> int: ...

    def encode(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the token ids of a text, after BOS where the model wants it and `add_bos` is set.

        With `special`, the texts of special tokens become their ids; otherwise they are text like any other.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"the text is not valid Unicode at character {error.start}; give it as UTF-8") from None
        ids = self._encode(text, special)
        return ids if self.bos_token_id is None or not add_bos else [self.bos_token_id, *ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without that of special ones. Broken UTF-8 becomes U+FFFD."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.add, ids)) + detokenizer.finish()

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """Return a decoder of a stream that continues `prompt`: with text before it, a leading space is kept."""
        return Detokenizer(self, prompt)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes a token stands for; special tokens and padding ids stand for nothing."""
        if token not in self._bytes:
            self._bytes[token] = self._token_bytes(token)
        return self._bytes[token]

    def start_bytes(self, token: int) -> tuple[bytes, bool]:
        """Return the bytes of a token before which there is no text, and whether there is text after it."""
        data = self.token_bytes(token)
        return data, bool(data)

    @abstractmethod
    def _encode(self, text: str, special: bool) -> list[int]: ...

    @abstractmethod
    def _token_bytes(self, token: int) -> bytes: ...


class Detokenizer:
    """Turns tokens into text as they come, holding back bytes until they make whole characters."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._started = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in prompt:  # it may end within a character, which the first new tokens complete
            self.add(token)

    def add(self, token: int) -> str:
        """Return the text that became whole with this token, perhaps none."""
        if self._started:
            data = self._tokenizer.token_bytes(token)
        else:
            data, self._started = self._tokenizer.start_bytes(token)
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return what is left when no more tokens come: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)
