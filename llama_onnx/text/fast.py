"""`tokenizer.json` through the optional `tokenizers` package.

Its decoders are pipelines. Those of the Llama family map each token to exact bytes, which stream without delay:
`ByteLevel` (GPT-2's alphabet, with one printable character per byte; Llama 3, Qwen), and `Replace`, `ByteFallback`,
`Fuse`, `Strip`, `Metaspace` (which do what sentencepiece does; Llama 2, Gemma, Phi-3). With any other pipeline, every
step decodes the last few tokens again and returns the text that the new token added, as text-generation-inference does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, ModelDirectoryError
from ..tokenizer import Detokenizer
from .added_tokens import AddedToken, TokenizerFiles
from .control import ControlTokens, TextTokenizer

if TYPE_CHECKING:
    import tokenizers

REPLACEMENT = "\ufffd"
WINDOW = 8  # tokens of the prompt that are context for the first new tokens


class JsonTokenizer(TextTokenizer):
    """A `tokenizer.json`. The manifest's BOS rule replaces the one in the file (a `TemplateProcessing`)."""

    def __init__(self, path: Path, bos_token_id: int | None = None, files: TokenizerFiles | None = None) -> None:
        """Load `tokenizer.json`.

        Args:
            path: the file `tokenizer.json`.
            bos_token_id: the token to put before each text; None for no token.
            files: the added tokens; there may be more than those in `tokenizer.json`.

        Raises:
            MissingDependencyError: the package `tokenizers` is not installed.
            ModelDirectoryError: the file is missing or damaged, or the added tokens contradict it.
        """
        super().__init__(bos_token_id)
        self._backend = _load(path)
        _add_tokens(self._backend, files or TokenizerFiles(), path)
        added = self._backend.get_added_tokens_decoder()
        self._special = frozenset(i for i, token in added.items() if token.special)
        self._later: tokenizers.Tokenizer | None = None  # for text after a control token, made when it is needed
        self._size = 1 + max([-1, *self._backend.get_vocab(with_added_tokens=True).values()])
        base = set(self._backend.get_vocab(with_added_tokens=False).values())
        self._base_size = 1 + max([-1, *(base - added.keys())])
        decoder = self._backend.decoder
        self._pieces = _compile(json.loads(decoder.__getstate__())) if decoder is not None else None

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._size

    @property
    def base_size(self) -> int:
        """One more than the largest id of a token that was not added."""
        return self._base_size

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, without special tokens. Invalid UTF-8 becomes U+FFFD."""
        if self._pieces is None:
            return self.decode_window([token for token in ids if token not in self._special])
        return super().decode(ids)

    def detokenizer(self, prompt: Sequence[int] = ()) -> Detokenizer:
        """Return a detokenizer for tokens that follow `prompt`. After text, it keeps a leading space."""
        return WindowDetokenizer(self, prompt) if self._pieces is None else super().detokenizer(prompt)

    def start_bytes(self, token: int) -> tuple[bytes, bool]:
        """Return the bytes of a token at the start of a text, and whether any text precedes the next token."""
        data = self.token_bytes(token)
        if self._pieces is None or not data:
            return data, bool(data)
        return self._pieces.at_start(self._backend.id_to_token(token) or ""), True

    def decode_window(self, ids: Sequence[int]) -> str:
        """Return the text of a few ids as the `tokenizers` package decodes them."""
        return str(self._backend.decode(ids, skip_special_tokens=True))

    def is_special(self, token: int) -> bool:
        """Return whether a token is special, so that it decodes to no text."""
        return token in self._special

    @cached_property
    def control(self) -> ControlTokens:
        """The tokens that are ids in the output of a template, and text in a message."""
        added = self._backend.get_added_tokens_decoder()
        return ControlTokens(
            AddedToken(i, token.content, True, token.lstrip, token.rstrip, token.single_word)
            for i, token in added.items()
            if token.special
        )

    def _encode(self, text: str, special: bool) -> list[int]:
        return _ids(self._backend, text, special)

    def _encode_part(self, text: str, first: bool) -> list[int]:
        if not first and self._later is None:
            self._later = _without_first_prefix(self._backend)
        return _ids(self._backend if first or self._later is None else self._later, text, special=False)

    def _token_bytes(self, token: int) -> bytes:
        piece = self._backend.id_to_token(token) if 0 <= token < self._size else None
        if piece is None or token in self._special:
            return b""
        return self._pieces.to_bytes(piece) if self._pieces else self.decode_window([token]).encode()


def _ids(backend: tokenizers.Tokenizer, text: str, special: bool) -> list[int]:
    backend.encode_special_tokens = not special  # true makes the package encode them as text
    return list(backend.encode(text, add_special_tokens=False).ids)


def _without_first_prefix(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a tokenizer that treats the start of a text as any other place in it, or the same one if it does so."""
    import tokenizers

    first, never = '"prepend_scheme":"first"', '"prepend_scheme":"never"'
    text = backend.to_str()
    return tokenizers.Tokenizer.from_str(text.replace(first, never)) if first in text else backend


class WindowDetokenizer(Detokenizer):
    """Streams with an unknown decoder: returns what each token adds to the text of the last few tokens."""

    def __init__(self, tokenizer: JsonTokenizer, prompt: Sequence[int] = ()) -> None:
        self._json = tokenizer
        self._ids = [token for token in prompt if not tokenizer.is_special(token)][-WINDOW:]
        self._printed = len(self._ids)  # the ids before this index are only context

    def add(self, token: int) -> str:
        """Return the text that this token completed, perhaps none."""
        if self._json.is_special(token):
            return ""
        self._ids.append(token)
        return self._take(whole=False)

    def finish(self) -> str:
        """Return the rest of the text after the last token: U+FFFD for a character that was never completed."""
        return self._take(whole=True)

    def _take(self, whole: bool) -> str:
        before = self._json.decode_window(self._ids[: self._printed])
        text = self._json.decode_window(self._ids)
        if len(text) <= len(before) or (text.endswith(REPLACEMENT) and not whole):
            return ""
        if text[len(before) :].strip():  # blank text is no context: decoders treat the start of a text differently
            self._ids = self._ids[self._printed :]
        self._printed = len(self._ids)
        return text[len(before) :]


@dataclass
class _Pieces:
    """A decoder that maps each piece of the vocabulary to bytes, independently of the others."""

    byte_level: bool = False
    byte_fallback: bool = False
    strips_space: bool = False  # drops one space at the start of the whole text
    dropped_at_start: str = ""  # a character that is dropped from the first token
    replacements: tuple[tuple[str, str], ...] = ()

    def to_bytes(self, piece: str) -> bytes:
        if self.byte_level:
            data = [_BYTE_OF.get(character) for character in piece]
            return piece.encode() if None in data else bytes(data)  # type: ignore[arg-type]  # the text of an added token
        for old, new in self.replacements:
            piece = piece.replace(old, new)
        if self.byte_fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            try:
                return bytes([int(piece[3:5], 16)])
            except ValueError:
                pass
        return piece.encode()

    def at_start(self, piece: str) -> bytes:
        if self.dropped_at_start:
            piece = piece.replace(self.dropped_at_start, "")
        data = self.to_bytes(piece)
        return data.removeprefix(b" ") if self.strips_space else data


def _compile(decoder: dict[str, Any]) -> _Pieces | None:
    """Return what a decoder does with each token; None if it does not treat each token independently."""
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    pieces = _Pieces()
    fused = False
    for step in steps:
        kind = step["type"]
        if kind == "Fuse":
            fused = True
        elif kind == "ByteLevel" and len([s for s in steps if s["type"] != "Fuse"]) == 1:
            pieces.byte_level = True
        elif kind == "ByteFallback" and not fused:
            pieces.byte_fallback = True
        elif kind == "Replace" and len(step["pattern"].get("String", "")) == 1 and not pieces.strips_space:
            pieces.replacements += ((step["pattern"]["String"], step["content"]),)
        elif kind == "Strip" and fused and (step["content"], step["start"], step["stop"]) == (" ", 1, 0):
            pieces.strips_space = True
        elif kind == "Metaspace" and not fused:
            pieces.replacements += ((step["replacement"], " "),)
            pieces.dropped_at_start = "" if step["prepend_scheme"] == "never" else step["replacement"]
        else:
            return None
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character in GPT-2's alphabet: a printable byte is itself, the others start at U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _load(path: Path) -> tokenizers.Tokenizer:
    try:
        import tokenizers
    except ImportError:
        raise MissingDependencyError(f"{path}: needs the package tokenizers: pip install tokenizers") from None
    try:
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path}: missing; copy the tokenizer from the checkpoint") from None
    except Exception as error:  # the package raises plain Exception if it cannot parse a file
        reason = " ".join(str(error).split())[:200]
        raise ModelDirectoryError(f"{path}: cannot be read ({reason}); copy it from the checkpoint again") from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, files: TokenizerFiles, path: Path) -> None:
    """Add the tokens that only the files beside `tokenizer.json` list, as in older checkpoints."""
    import tokenizers

    known = backend.get_added_tokens_decoder()
    for token in files.added:
        if token.id in known and known[token.id].special >= token.special:
            continue
        flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
        added = tokenizers.AddedToken(token.text, special=token.special, normalized=False, **flags)
        (backend.add_special_tokens if token.special else backend.add_tokens)([added])
        if backend.token_to_id(token.text) != token.id:
            raise ModelDirectoryError(
                f"{path}: {token.text!r} is token {backend.token_to_id(token.text)} here and {token.id} in the files "
                "beside it; copy all these files from the checkpoint again"
            )
