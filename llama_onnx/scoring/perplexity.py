"""Perplexity of a text: exp of the mean negative log-likelihood of its tokens, each predicted from the previous ones.

A text longer than the context is split into overlapping windows, as in the Hugging Face guide
(https://huggingface.co/docs/transformers/perplexity). Window k begins at token k · stride and scores only the tokens
after the end of the previous window, so that at least ctx - stride tokens come before each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..decoder import Decoder
from ..errors import RequestError
from . import layerwise

LARGEST_DEFAULT_CTX = 2048


@dataclass(frozen=True)
class Window:
    """Tokens int64 [S] of one window, and the position of the first token that is scored (at least 1)."""

    ids: np.ndarray
    first_scored: int

    @property
    def targets(self) -> np.ndarray:
        """The scored tokens, int64 [S - first_scored]."""
        return self.ids[self.first_scored :]


@dataclass(frozen=True)
class Perplexity:
    """The result: mean negative log-likelihood in nats per token, its standard error, and how much was scored."""

    nll: float
    nll_error: float
    tokens: int
    windows: int
    ctx: int
    stride: int

    @property
    def value(self) -> float:
        """exp(nll); infinite if that overflows."""
        return exp(self.nll)

    @property
    def error(self) -> float:
        """Standard error of the value, to first order."""
        return self.value * self.nll_error


def perplexity(
    decoder: Decoder,
    ids: Sequence[int] | np.ndarray,
    ctx: int | None = None,
    stride: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Perplexity:
    """Score a text given as token ids [N].

    Args:
        decoder: of the model.
        ids: of the text, with BOS if the model expects it.
        ctx: tokens in a window; None means the model's context, at most 2048.
        stride: tokens from the start of one window to the start of the next; None means half of ctx.
        on_progress: called with the share of the work that is done, 0 to 1.

    Raises:
        RequestError: the text has fewer than 2 tokens, or ctx or stride is out of range.

    Example:
        >>> lm = llama_onnx.load("models/alpaca")
        >>> perplexity(lm.decoder, lm.tokenizer.encode(text), ctx=1024, stride=512).value
    """
    ctx = ctx or min(decoder.config.context_length, LARGEST_DEFAULT_CTX)
    stride = stride or max(1, ctx // 2)
    check_windows(ctx, stride, decoder.config.context_length)
    views = windows(ids, ctx, stride)
    nlls = np.concatenate(list(token_nlls(decoder, views, on_progress)))
    return Perplexity(float(nlls.mean()), standard_error(nlls), len(nlls), len(views), ctx, stride)


def windows(ids: Sequence[int] | np.ndarray, ctx: int, stride: int) -> list[Window]:
    """Return the windows over token ids [N]. Each token is scored once, except the first one.

    If ctx equals stride, windows do not overlap, and the first token of each window is not scored.

    Raises:
        RequestError: fewer than 2 tokens.
    """
    ids = np.asarray(ids, np.int64)
    if len(ids) < 2:
        raise RequestError(f"the text has {len(ids)} tokens, but at least 2 are needed; give a longer text")
    found, scored_end = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + ctx, len(ids))
        first = max(1, scored_end - begin)
        if first < end - begin:
            found.append(Window(ids[begin:end], first))
        scored_end = end
        if end == len(ids):
            break
    return found


def windows_of(count: int, ctx: int) -> str:
    """Return the windows of a result in words: '1 window of 512'."""
    return f"{count} window{'s' * (count != 1)} of {ctx}"


def check_windows(ctx: int, stride: int, context_length: int) -> None:
    """Raise RequestError unless windows of `ctx` tokens, `stride` apart, fit the context and leave no gaps."""
    if not 2 <= ctx <= context_length:
        raise RequestError(f"--ctx-size must be 2 to {context_length} (the model's context), not {ctx}")
    if not 1 <= stride <= ctx:
        raise RequestError(f"--stride must be 1 to {ctx} (--ctx-size), not {stride}: a longer one would skip tokens")


def token_nlls(
    decoder: Decoder, views: Sequence[Window], on_progress: Callable[[float], None] | None = None
) -> Iterator[np.ndarray]:
    """Yield for each window the negative log-likelihoods of its scored tokens, float64 [scored], in nats."""
    total = sum(len(view.ids) for view in views) * decoder.config.num_layers
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        if on_progress:
            on_progress(done / total)

    waiting = iter(views)
    for group in layerwise.split(decoder, (view.ids for view in views)):
        for hidden in layerwise.final_hidden(decoder, group, advance=advance):
            view = next(waiting)
            # The position before a token predicts it; the last position predicts a token after the window.
            predicting, start, nlls = hidden[:, view.first_scored - 1 : -1], 0, []
            for logits in layerwise.logits(decoder, predicting):
                nlls.append(-log_likelihoods(logits, view.targets[start : start + len(logits)]))
                start += len(logits)
            yield np.concatenate(nlls)


def log_likelihoods(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return log softmax(logits)[target], float64 [S], for logits float32 [S, vocab] and targets int64 [S]."""
    highest = logits.max(-1, keepdims=True)
    total = np.exp(logits - highest).sum(-1, dtype=np.float64)
    chosen = np.take_along_axis(logits, targets[:, None], -1) - highest
    return np.asarray(chosen[:, 0].astype(np.float64) - np.log(total))


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of values [n]; 0 for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def exp(value: float) -> float:
    """Return e^value, or infinity if that overflows."""
    return math.exp(value) if value < 709 else math.inf
