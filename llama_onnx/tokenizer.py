"""Text to token ids and back. Decoding is incremental, so that streamed text equals the text decoded as a whole.

Two kinds of tokenizer share one interface: `tokenizer.model` (sentencepiece, here) and `tokenizer.json` (the optional
`tokenizers` package, `tokenizer_json.py`). Where a directory has both, `tokenizer.model` is taken, which needs no
extra; tokens that only the JSON files know are put on top of it. A `tokenizer.model` that is of another kind or size
(Llama 3 ships a tiktoken file under that name) is passed over for `tokenizer.json`.

The text of a special token in a prompt is ordinary text, so that no text can pass for a control token; only with
`special=True`, as for what a chat template rendered, does it become the token's id. Added tokens that are not special
are words and always become their ids.
"""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .config import ModelConfig
from .errors import ModelDirectoryError, RequestError
from .text.added_tokens import FAST, AddedToken, TokenizerFiles, read_tokenizer_files

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPACE = "\u2581"  # how sentencepiece writes a space
UNKNOWN_TEXT = " \u2047 ".encode()  # what sentencepiece prints for an unknown piece
# Protobuf for `normalizer_spec { add_dummy_prefix: false }`: put behind a model, it overrides that one field.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class Tokenizer(ABC):
    """What the runtime needs of a tokenizer, with the BOS rule of the model it belongs to."""

    def __init__(self, bos_token_id: int | None = None) -> None:
        self.bos_token_id = bos_token_id
        self._bytes: dict[int, bytes] = {}

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    @abstractmethod
    def base_size(self) -> int:
        """One more than the largest id of a token that was not added."""

    def encode(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: any text.
            add_bos: put BOS first, where the model wants it.
            special: texts of special tokens become their ids; otherwise they are text like any other.

        Raises:
            RequestError: the text cannot be written as UTF-8 (it holds half of a surrogate pair).
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


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model, with added tokens on top of it."""

    def __init__(self, path: Path, bos_token_id: int | None = None, files: TokenizerFiles | None = None) -> None:
        """Load `tokenizer.model`.

        Args:
            path: of the sentencepiece model.
            bos_token_id: put before each text; None for none.
            files: the added tokens.

        Raises:
            ModelDirectoryError: the file is missing or not a sentencepiece model.
        """
        super().__init__(bos_token_id)
        files = files or TokenizerFiles()
        self._path, self._processor = path, _load_sentencepiece(path)
        self._base_size = int(self._processor.get_piece_size())
        self._added = {t.id: t for t in files.added if t.special or t.id >= self._base_size}  # other pieces it finds
        for i in range(self._base_size):  # control pieces are special tokens that no file needs to name
            if self._processor.is_control(i) and i not in self._added:
                self._added[i] = AddedToken(i, self._processor.id_to_piece(i), special=True)
        added = self._added.values()
        self._splitters = {wanted: _Splitter(t for t in added if wanted or not t.special) for wanted in (False, True)}
        self._strip = _leading_spaces_stripped(self._processor)
        prefixes = "".join(self._processor.encode("a", out_type=str)).startswith(SPACE)
        self._unprefixed = None if prefixes and not files.prefixes_every_part else self._processor

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max([self._base_size, *(i + 1 for i in self._added)])

    @property
    def base_size(self) -> int:
        """How many pieces there are."""
        return self._base_size

    def start_bytes(self, token: int) -> tuple[bytes, bool]:
        """Return the bytes of a token before which there is no text, and whether there is text after it."""
        data = self.token_bytes(token)
        if not self._strip or not data or token in self._added or self._processor.is_byte(token):
            return data, bool(data)
        if self._processor.is_unknown(token) or not data.startswith(b" "):
            return data, True
        return data[1:], bool(data[1:]) or self._strip == 1

    def _encode(self, text: str, special: bool) -> list[int]:
        ids: list[int] = []
        processor = self._processor
        for part in self._splitters[special].split(text):
            ids += [part] if isinstance(part, int) else processor.encode(part)
            processor = self._continuing()
        return ids

    def _continuing(self) -> SentencePieceProcessor:
        """Return the processor for text after an added token, which as in transformers gets no leading space."""
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


class _Splitter:
    """Finds added tokens in a text, the leftmost first and the longest of those."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._by_text = {token.text: token for token in tokens}
        longest_first = sorted(self._by_text.values(), key=lambda token: -len(token.text))
        self._pattern = re.compile("|".join(map(_pattern, longest_first)) or "(?!)")  # (?!) matches nothing

    def split(self, text: str) -> Iterator[str | int]:
        """Yield the parts of a text: ids of added tokens, and what is between them."""
        place = 0
        for match in self._pattern.finditer(text):
            token = self._by_text[match.group()]
            if match.start() < place:  # white space that the token before has swallowed
                continue
            between = text[place : match.start()]
            yield from filter(None, [between.rstrip() if token.lstrip else between])
            yield token.id
            place = match.end()
            if token.rstrip:
                place = len(text) - len(text[place:].lstrip())
        yield from filter(None, [text[place:]])


def _pattern(token: AddedToken) -> str:
    return rf"(?<!\w){re.escape(token.text)}(?!\w)" if token.single_word else re.escape(token.text)


def _load_sentencepiece(path: Path, override: bytes = b"") -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        model = path.read_bytes()
        if not model:  # which sentencepiece takes for "load nothing yet"
            raise ValueError("empty")
        return SentencePieceProcessor(model_proto=model + override)
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path}: missing; copy the tokenizer of the checkpoint there") from None
    except (RuntimeError, OSError, ValueError):
        raise ModelDirectoryError(f"{path}: not a sentencepiece model; copy the checkpoint's own again") from None


def _leading_spaces_stripped(processor: SentencePieceProcessor) -> int:
    """Return how many of 2 leading spaces a model drops when it decodes (0 to 2), told by trying it out."""
    space = processor.piece_to_id(SPACE)
    if not processor.is_unknown(space):
        return 2 - len(processor.decode([space, space]))
    word = next((i for i in range(processor.get_piece_size()) if processor.id_to_piece(i).startswith(SPACE)), None)
    return 0 if word is None or processor.decode([word]).startswith(" ") else 1


def load_tokenizer(config: ModelConfig) -> Tokenizer:
    """Load the tokenizer of a model directory; see `open_tokenizer`."""
    return open_tokenizer(
        config.directory, config.vocab_size, config.bos_token_id if config.add_bos else None, config.eos_token_ids
    )


def open_tokenizer(
    directory: Path, vocab_size: int, bos_token_id: int | None, eos_token_ids: Sequence[int] = ()
) -> Tokenizer:
    """Load the tokenizer that lies in a directory and check that it is the model's own.

    Args:
        directory: with `tokenizer.model` or `tokenizer.json`, and what tells of added tokens.
        vocab_size: how many tokens the model has.
        bos_token_id: put before every text, unless the tokenizer's files name another; None means nothing is.
        eos_token_ids: what ends an answer, special whatever the files say.

    Models pad their vocabulary a little, so the tokenizer may have up to 5 % (or 64) tokens fewer, but none more,
    except added ones that the model has no place for (Gemma 3 lists a picture token): those are left out.

    Raises:
        ModelDirectoryError: missing, damaged, or of another vocabulary.
        MissingDependencyError: it is a `tokenizer.json` and `tokenizers` is not installed.
    """
    path, fast = directory / "tokenizer.model", directory / FAST
    files = read_tokenizer_files(directory).for_model(vocab_size, tuple(eos_token_ids))
    bos = bos_token_id if bos_token_id is None or files.bos_token_id is None else files.bos_token_id
    if path.is_file() or not fast.is_file():
        try:
            return _of_size(SentencePieceTokenizer(path, bos, files), path, vocab_size)
        except ModelDirectoryError:
            if not fast.is_file():
                raise
    from .text.fast import JsonTokenizer

    return _of_size(JsonTokenizer(fast, bos, files), fast, vocab_size)


def _of_size(tokenizer: Tokenizer, path: Path, vocab_size: int) -> Tokenizer:
    padding = vocab_size - max(tokenizer.base_size, min(tokenizer.vocab_size, vocab_size))
    if 0 <= padding <= max(64, vocab_size // 20):
        return tokenizer
    raise ModelDirectoryError(
        f"{path}: {tokenizer.vocab_size} tokens, but the model has {vocab_size}: it belongs to another model; copy the "
        "checkpoint's own"
    )
