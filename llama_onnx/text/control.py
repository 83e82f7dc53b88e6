"""Control tokens in the output of a chat template: its own become ids, and those that a user typed stay text.

Before a template is rendered, each text of a control token inside the messages is replaced by a placeholder of two
characters that occur nowhere else. Afterwards the output is cut at the control tokens that are left, which the template
wrote, and between them the placeholders become the text that they stand for.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from ..tokenizer import Tokenizer
from .added_tokens import AddedToken

MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # Unicode guarantees that these are never characters
FIRST = 0xF0000  # of the private characters that number the texts


class ControlTokens:
    """Finds tokens in a text by their names. At each position the longest one matches."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._by_text = {token.text: token for token in tokens}
        self._longest_first = sorted(self._by_text.values(), key=lambda token: -len(token.text))
        self.texts = tuple(token.text for token in self._longest_first)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Made when it is needed, because a vocabulary may have thousands of such tokens."""
        return re.compile("|".join(map(_pattern, self._longest_first)) or "(?!)")  # (?!) matches nothing

    def split(self, text: str) -> Iterator[str | int]:
        """Yield the parts of a text in order: ids of tokens, and the text between them."""
        place = 0
        for match in self._pattern.finditer(text):
            token = self._by_text[match.group()]
            if match.start() < place:  # white space that the previous token absorbed
                continue
            between = text[place : match.start()]
            yield from filter(None, [between.rstrip() if token.lstrip else between])
            yield token.id
            place = match.end()
            if token.rstrip:
                place = len(text) - len(text[place:].lstrip())
        yield from filter(None, [text[place:]])


class TextTokenizer(Tokenizer):
    """A tokenizer that can tell the control tokens of a template from those in a message."""

    @property
    @abstractmethod
    def control(self) -> ControlTokens:
        """The tokens that are ids in the output of a template, and text in a message."""

    def encode_rendered(self, text: str, placeholders: Placeholders) -> list[int]:
        """Return the ids of the output of a template, without adding BOS; what placeholders stand for stays text."""
        if not placeholders:
            return self.encode(text, add_bos=False, special=True)
        ids: list[int] = []
        for part in self.control.split(text):
            ids += [part] if isinstance(part, int) else self._encode_part(placeholders.restore(part), not ids)
        return ids

    @abstractmethod
    def _encode_part(self, text: str, first: bool) -> list[int]:
        """Return the ids of text before, between or after control tokens; `first`: at the start of the prompt."""


class Placeholders:
    """Stands in for texts of control tokens inside messages. It is false if there are none."""

    def __init__(self, texts: Iterable[str], messages: Any) -> None:
        """Find the texts in `messages`, which are made of strings, numbers, lists and mappings."""
        whole = "\0".join(_strings(messages))
        used = [text for text in sorted(texts, key=len, reverse=True) if text in whole]
        free = (mark for mark in MARKS if mark not in whole and _escaped(mark) not in whole.lower())
        self._mark = next(free, "")
        self._stand_in = {text: f"{self._mark}{chr(FIRST + i)}" for i, text in enumerate(used)}
        self._pattern = re.compile("|".join(map(re.escape, used)) or "(?!)")

    def __bool__(self) -> bool:
        return bool(self._stand_in)

    def hide(self, value: Any) -> Any:
        """Return a copy of messages with placeholders."""
        if isinstance(value, str):
            return self._pattern.sub(lambda match: self._stand_in[match.group()], value)
        if isinstance(value, Mapping):
            return {self.hide(name): self.hide(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return value

    def restore(self, text: str) -> str:
        """Return a text with what the placeholders stand for."""
        for original, stand_in in self._stand_in.items():
            text = text.replace(stand_in, original).replace(_escaped(stand_in), original)
        return text


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in messages."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _escaped(text: str) -> str:
    """Return a text as JSON writes it in ASCII: a template may do so."""
    return json.dumps(text)[1:-1]


def _pattern(token: AddedToken) -> str:
    return rf"(?<!\w){re.escape(token.text)}(?!\w)" if token.single_word else re.escape(token.text)
