"""Prompt lookup: draft the tokens that followed when the last few tokens occurred before, in the prompt or the output.

It needs no second model: text that repeats its input (a summary, an edit, code) contains many passages that were seen
before. The model checks a draft of several tokens in one pass and keeps the tokens it would have chosen itself (Saxena
2023, prompt lookup decoding; Leviathan et al. 2023 show why checking does not change the output distribution).
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST, SHORTEST = 5, 3  # how many tokens must match; the longest match is used
FIRST_DRAFT = 4
TABLE_BYTES = 640  # of the table for each token (measured: 590)
LONGEST_PAUSE = 16  # tokens


class PromptLookup:
    """Drafts for one generation. While the drafts are wrong, it pauses, and retries after longer and longer pauses."""

    def __init__(self, max_draft: int) -> None:
        """Draft up to `max_draft` tokens at a time, at least 1."""
        self.drafted = 0
        self.accepted = 0
        self._max_draft = max_draft
        self._size = min(FIRST_DRAFT, max_draft)
        self._pause = 0  # tokens to wait before the next draft
        self._penalty = 1  # tokens to wait after the next draft that is entirely wrong
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token after its last occurrence
        self._seen = SHORTEST

    def bytes_for(self, length: int) -> int:
        """Return the bytes the table takes for a history of `length` tokens, in whole pages."""
        return -(-length * TABLE_BYTES >> 12) << 12

    def draft(self, history: Sequence[int], room: int) -> list[int]:
        """Return up to `room` tokens that followed the previous occurrence of the end of `history`, perhaps none."""
        place = self._find(history)
        if self._pause:
            self._pause -= 1
            return []
        if not place:
            return []
        span = len(history) - place  # if the draft is longer than the repeated part, it repeats that part
        return [history[place + i % span] for i in range(min(self._size, room))]

    def learn(self, drafted: int, accepted: int) -> None:
        """Record how many of the drafted tokens were accepted, and choose the size of the next draft accordingly."""
        if not drafted:
            return
        self.drafted += drafted
        self.accepted += accepted
        if accepted:
            self._penalty = 1
            self._size = min(self._max_draft, 2 * drafted if accepted == drafted else accepted + 1)
        else:
            self._pause = self._penalty
            self._penalty = min(2 * self._penalty, LONGEST_PAUSE)
            self._size = min(2, self._max_draft)

    def _find(self, history: Sequence[int]) -> int:
        """Return the index after the previous occurrence of the last few tokens; 0 if there is none."""
        for place in range(self._seen, len(history)):
            for size in range(SHORTEST, min(LONGEST, place) + 1):
                self._ends[tuple(history[place - size : place])] = place
        self._seen = len(history)
        sizes = range(LONGEST, SHORTEST - 1, -1)
        return next((self._ends[end] for size in sizes if (end := tuple(history[-size:])) in self._ends), 0)
