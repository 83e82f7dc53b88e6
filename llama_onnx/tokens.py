"""The data types of generation: requests, tokens, steps with their text, completions, and timing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .sampling import SamplingParams


@dataclass(frozen=True)
class Request:
    """Token ids to continue, checked by `check_prompt`, and the sampling parameters."""

    prompt: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True)
class Token:
    """One generated token. The last one has a `finish_reason`: 'stop' (an end token) or 'length'."""

    token: int
    logprob: float
    finish_reason: str | None = None


@dataclass(frozen=True)
class Step(Token):
    """A token as streaming yields it, with the text that it completes, which may be empty."""

    text: str = ""


@dataclass(frozen=True)
class Completion:
    """The output for one prompt; see `Token` for `finish_reason`. `completion_tokens` includes an end token."""

    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Timing:
    """How long the last generation took, in seconds; the first new token counts as part of the prompt."""

    prompt_tokens: int = 0
    reused_tokens: int = 0  # those of the prompt that were already in the cache
    prompt_seconds: float = 0.0
    new_tokens: int = 0
    decoded: int = 0  # new tokens from passes that computed no prompt
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
        """Return the figures, with rates in tokens per second (0 if nothing was measured)."""
        prompt = (self.prompt_tokens - self.reused_tokens) / (self.prompt_seconds or math.inf)
        decode = self.decoded / (self.decode_seconds or math.inf)
        return {**vars(self), "prompt_tokens_per_second": prompt, "tokens_per_second": decode}
