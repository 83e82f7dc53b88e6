"""Streaming text: turn tokens into text as they are generated, up to the first stop text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..tokenizer import Tokenizer
from ..tokens import Step, Token


def stream_text(
    tokens: Iterator[Token], tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()
) -> Iterator[Step]:
    """Yield the text of tokens as soon as its characters are complete. End before the first stop text."""
    text = TextStream(tokenizer, prompt, stop)
    for token in tokens:
        step = text.add(token)
        yield step
        if step.finish_reason:
            return


class TextStream:
    """Turns the tokens of one generation into text, one token at a time."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._detokenizer = tokenizer.detokenizer(prompt)
        self._stop = stop
        self._stop_tokens = {ids[0] for text in stop if len(ids := tokenizer.encode(text, False, special=True)) == 1}
        self._held_back = ""  # text that may be the beginning of a stop text

    def add(self, token: Token) -> Step:
        """Return the text that this token completed. The text ends before the first stop text.

        A special token has no text, but ends it too if its name is a stop text.
        """
        text = self._held_back + self._detokenizer.add(token.token)
        stopped = token.token in self._stop_tokens
        if token.finish_reason or stopped:
            text += self._detokenizer.finish()
        found = min((place for place in map(text.find, self._stop) if place >= 0), default=-1)
        if found >= 0:
            return Step(token.token, token.logprob, "stop", text[:found])
        if stopped:
            return Step(token.token, token.logprob, "stop", text)
        keep = 0 if token.finish_reason else _partial_stop(text, self._stop)
        text, self._held_back = text[: len(text) - keep], text[len(text) - keep :]
        return Step(token.token, token.logprob, token.finish_reason, text)


def _partial_stop(text: str, stop: Sequence[str]) -> int:
    """Return how many characters at the end of text may begin a stop text."""
    longest = max(map(len, stop), default=0) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(s.startswith(text[-size:]) for s in stop):
            return size
    return 0
