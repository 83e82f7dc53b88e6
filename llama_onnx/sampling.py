"""Sampling in numpy: chooses one token from logits.

The order is that of Hugging Face: repetition penalty, temperature, top-k, top-p, min-p. Each filter is a pure function
of float logits. It sets the logits it removes to -inf, and never removes the most likely token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from .errors import LlamaOnnxError, RequestError

# Name, type, smallest and largest value of each parameter, and the range as error messages print it.
RANGES: tuple[tuple[str, Any, float, float, str], ...] = (
    ("temperature", Real, 0, 1e6, "0 to 1000000"),
    ("top_k", Integral, 0, math.inf, "0 (all) or more"),
    ("top_p", Real, 5e-324, 1, "above 0 and at most 1"),
    ("min_p", Real, 0, np.nextafter(1, 0), "at least 0 and below 1"),
    ("repetition_penalty", Real, 1e-6, 1e6, "0.000001 to 1000000 (1 = none)"),
    ("max_tokens", Integral, 1, math.inf, "at least 1"),
    ("prompt_lookup", Integral, 0, 64, "0 (none) to 64"),
    ("seed", Integral, 0, math.inf, "0 or more"),
)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when to stop; the command line and the server have the same defaults.

    Raises:
        RequestError: a value has the wrong type or is out of range.
    """

    temperature: float = 0.1  # 0 takes the most likely token (greedy); higher is more varied
    top_k: int = 40  # sample from the k most likely tokens; 0 means all
    top_p: float = 1.0  # sample from the fewest tokens whose probabilities add up to p; 1 means all
    min_p: float = 0.0  # drop tokens less likely than this share of the most likely one; 0 means none
    repetition_penalty: float = 1.0  # above 1 makes tokens that already occurred less likely (Keskar et al. 2019)
    max_tokens: int = 2000  # the most tokens to generate
    seed: int | None = None  # makes sampling repeatable; None draws a new seed
    stop: Sequence[str] = ()  # texts that end the generation; they are not part of the output
    prompt_lookup: int = 8  # how many tokens to guess at a time from the text so far and check in one pass; 0 = none

    def __post_init__(self) -> None:
        for name, kind, least, most, bounds in RANGES:
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool):
                wanted = "a whole number" if kind is Integral else "a number"
                raise RequestError(f"{name} must be {wanted}, not {' '.join(repr(value).split()):.40}")
            if not least <= value <= most:
                raise RequestError(f"{name} must be {bounds}, not {value!s:.40}")
            object.__setattr__(self, name, int(value) if kind is Integral else float(value))
        listed = isinstance(self.stop, Sequence) and not isinstance(self.stop, (str, bytes))
        if not listed or not all(isinstance(text, str) and text for text in self.stop):
            raise RequestError("stop must be a list of texts, none of them empty")

    def of_prompt(self, index: int) -> SamplingParams:
        """Return the parameters of prompt `index` of many: their seed is `seed + index`."""
        return self if self.seed is None else replace(self, seed=self.seed + index)


def sample(
    logits: np.ndarray, params: SamplingParams, rng: np.random.Generator, history: Sequence[int] = ()
) -> tuple[int, float]:
    """Choose the token after `history` from its logits, float [vocab]; use one random number of `rng` unless greedy.

    Returns the token and its log-probability under the model's own distribution (no filters), in nats.
    """
    top = largest(logits)
    filtered = apply_repetition_penalty(logits, history, params.repetition_penalty)
    if params.temperature == 0:
        token = int(np.argmax(filtered))
    else:
        # A temperature keeps the order, so the top k can be taken first; the other steps then have few candidates.
        candidates = top_k(filtered, params.top_k)
        filtered = apply_temperature(filtered[candidates], params.temperature)
        filtered = keep_top_p(filtered, params.top_p)
        filtered = keep_min_p(filtered, params.min_p)
        token = int(candidates[draw(filtered, rng)])
    return token, float(logits[token] - log_sum_exp(logits, top))


def largest(logits: np.ndarray) -> float:
    """Return the largest of float [vocab] logits; raise LlamaOnnxError if they are not a distribution."""
    top = float(logits[logits.argmax()])  # argmax finds any NaN
    if not math.isfinite(top):
        what = "gives every token probability 0" if top == -math.inf else "returned NaN or infinite logits"
        raise LlamaOnnxError(f"the model {what}: its weights are damaged or overflow")
    return top


def apply_repetition_penalty(logits: np.ndarray, history: Sequence[int], penalty: float) -> np.ndarray:
    """Divide positive logits of tokens in `history` by `penalty` and multiply negative ones (CTRL, section 4.1)."""
    if penalty == 1 or not len(history):
        return logits
    seen = np.unique(np.asarray(history))
    scores = logits[seen]
    penalised = logits.copy()
    penalised[seen] = np.where(scores > 0, scores / penalty, scores * penalty)
    return penalised


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divide by the temperature (> 0). The largest becomes 0 first, so that no small temperature overflows."""
    return np.asarray((logits.astype(np.float64) - logits.max()) / max(temperature, 1e-200))


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Return the ascending ids of the k most likely tokens (0: all); ties go to lower ids; -inf is left out."""
    threshold = np.partition(logits, -k)[-k] if 0 < k < len(logits) else -np.inf
    if threshold == -np.inf:
        return np.flatnonzero(logits > threshold)
    tokens = (logits >= threshold).nonzero()[0]
    if len(tokens) > k:
        ties = np.flatnonzero(logits[tokens] == threshold)
        tokens = np.delete(tokens, ties[k - len(tokens) :])
    return tokens


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the fewest most likely tokens whose probabilities add up to p (p >= 1: all); ties go to lower ids."""
    if p >= 1:
        return logits
    order = (-logits).argsort(kind="stable")
    reached = probabilities(logits[order]).cumsum()
    dropped = order[reached.searchsorted(p) + 1 :]
    kept = logits.copy()
    kept[dropped] = -np.inf
    return kept


def keep_min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Drop tokens whose probability is below p times the largest probability (p = 0: none)."""
    return logits if p == 0 else np.where(logits >= np.max(logits) + math.log(p), logits, -np.inf)


def draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a token from the distribution of the logits, by inverting its cumulative sum at one random number."""
    candidates = (logits > -np.inf).nonzero()[0]
    cumulative = probabilities(logits[candidates]).cumsum()
    place = cumulative.searchsorted(rng.random() * cumulative[-1], side="right")
    return int(candidates[min(place, len(candidates) - 1)])


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return softmax of logits along the last axis, float64."""
    exp = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True))


def log_sum_exp(logits: np.ndarray, top: float) -> float:
    """Return log Σ exp(logits) of float [vocab], the largest of which is `top`, without overflow."""
    exp = logits - logits.dtype.type(top)
    return top + math.log(np.exp(exp, out=exp).sum(dtype=np.float64))
