"""What generating passes on: tokens, steps with their text, requests, completions, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """One generated token. `finish_reason` is set on the last: 'stop' (an end token) or 'length'."""

    token: int
    logprob: float
    finish_reason: str | None = None


@dataclass(frozen=True)
class Step:
    """What streaming yields for each token: the text that became whole with it, perhaps none."""

    text: str
    token: int
    logprob: float
    finish_reason: str | None = None


@dataclass
class Timing:
    """How long the last generation took, in seconds.

    The first new token counts as part of the prompt's pass; `decoded` counts those of passes without a prompt in them.
    """

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    decoded: int = 0
    decode_seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0

    def as_dict(self) -> dict[str, float]:
        """Return the figures with their rates in tokens per second (0 where nothing was measured)."""
        rate = self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else 0.0
        decode_rate = self.decoded / self.decode_seconds if self.decode_seconds else 0.0
        return {**vars(self), "prompt_tokens_per_second": rate, "tokens_per_second": decode_rate}
