"""What generating passes on: requests, tokens, steps with their text, completions, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .sampling import SamplingParams


@dataclass(frozen=True)
class Request:
    """Token ids to continue, checked by `check_prompt`, and how."""

    prompt: Sequence[int]
    params: SamplingParams


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


@dataclass(frozen=True)
class Completion:
    """What came after a prompt. `finish_reason` is 'stop' or 'length'; `completion_tokens` counts an end token too."""

    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Timing:
    """How long the last generation took, in seconds.

    The first new token counts as part of the prompt's pass; `decoded` counts those of passes without a prompt in them.
    `reused_tokens` of the prompt were in the cache already.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    decoded: int = 0
    decode_seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0

    def take(self, prompt_tokens: int, seconds: float) -> None:
        """Count one more token of a single generation, `seconds` after its start."""
        self.new_tokens += 1
        self.decoded = self.new_tokens - 1
        if self.new_tokens == 1:
            self.prompt_tokens, self.prompt_seconds = prompt_tokens, seconds
        self.decode_seconds = seconds - self.prompt_seconds

    def as_dict(self) -> dict[str, float]:
        """Return the figures with their rates in tokens per second (0 where nothing was measured)."""
        computed = self.prompt_tokens - self.reused_tokens
        rate = computed / self.prompt_seconds if self.prompt_seconds else 0.0
        decode_rate = self.decoded / self.decode_seconds if self.decode_seconds else 0.0
        return {**vars(self), "prompt_tokens_per_second": rate, "tokens_per_second": decode_rate}
