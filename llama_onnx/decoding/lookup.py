"""Prompt lookup: guess the next tokens from where the last ones occurred before, in the prompt or the output.

No second model: text that repeats its input (a summary, an edit, code) is full of stretches that were seen already. The
model checks a guess of several tokens in one pass; what it would have said itself is kept (Saxena 2023, prompt lookup
decoding; Leviathan et al. 2023 for why checking loses nothing).
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST, SHORTEST = 5, 3  # how many tokens must match: the longest match there is decides
FIRST_DRAFT = 4
TABLE_BYTES = 640  # of the table for each token (measured: 590)
LONGEST_PAUSE = 16


class PromptLookup:
    """Drafts for one generation. Turns itself off while its drafts are wrong, and comes back to try now and then."""

    def __init__(self, most: int) -> None:
        """`most` tokens at a time are drafted; 0 drafts nothing."""
        self.drafted = 0
        self.accepted = 0
        self._most = most
        self._size = min(FIRST_DRAFT, most)
        self._pause = 0  # tokens to wait before the next draft, and how many to wait after the next failure
        self._penalty = 1
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram -> where the token after it stands
        self._seen = SHORTEST

    def bytes_for(self, length: int) -> int:
        """Return the bytes the table takes for a history of `length` tokens, in whole pages."""
        return -(-length * TABLE_BYTES >> 12) << 12 if self._most else 0

    def draft(self, history: Sequence[int], room: int) -> list[int]:
        """Return up to `room` tokens that followed when the end of `history` last occurred, perhaps none."""
        if not self._most:
            return []
        place = self._find(history)
        if self._pause:
            self._pause -= 1
            return []
        if not place:
            return []
        span = len(history) - place  # a loop shorter than the draft goes round in it
        return [history[place + i % span] for i in range(min(self._size, room))]

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of how many of the drafted tokens were right: more are drafted next time, or fewer, or none."""
        if not drafted:
            return
        self.drafted += drafted
        self.accepted += accepted
        if accepted:
            self._penalty = 1
            self._size = min(self._most, 2 * drafted if accepted == drafted else accepted + 1)
        else:
            self._pause = self._penalty
            self._penalty = min(2 * self._penalty, LONGEST_PAUSE)
            self._size = min(2, self._most)

    def _find(self, history: Sequence[int]) -> int:
        """Return where the text goes on after the last occurrence of its own end, 0 if it has none."""
        for place in range(self._seen, len(history)):
            for size in range(SHORTEST, min(LONGEST, place) + 1):
                self._ends[tuple(history[place - size : place])] = place
        self._seen = len(history)
        sizes = range(LONGEST, SHORTEST - 1, -1)
        return next((self._ends[end] for size in sizes if (end := tuple(history[-size:])) in self._ends), 0)
