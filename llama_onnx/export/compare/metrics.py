"""Measures of how a candidate differs from a reference, accumulated over any number of arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...scoring.perplexity import exp, standard_error

BLOCK = 1 << 17  # numbers converted to float64 at a time; they fit into the cache
PERCENTILES = {"max": 100.0, "99.9%": 99.9, "99%": 99.0, "95%": 95.0, "90%": 90.0, "median": 50.0}


@dataclass
class Error:
    """The difference of vectors [..., n] from reference vectors, accumulated in float64.

    max |c - r|, mean |c - r|, the mean cosine of vectors (not the cosine of all values together, because a few
    positions of a language model have far longer vectors than the others), and the signal-to-quantisation-noise ratio
    SQNR = 10 log10(Σ r² / Σ (c - r)²) in dB.
    """

    count: int = 0
    vectors: int = 0
    largest: float = 0.0
    total: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    cosines: float = 0.0

    def add(self, reference: np.ndarray, candidate: np.ndarray) -> None:
        """Add arrays of the same shape [..., n]. Values that are not finite make the error infinite."""
        size = reference.shape[-1]
        rows = max(1, BLOCK // size)
        reference, candidate = reference.reshape(-1, size), candidate.reshape(-1, size)
        for start in range(0, len(reference), rows):
            block = slice(start, start + rows)
            self._add(reference[block].astype(np.float64), candidate[block].astype(np.float64))

    def _add(self, r: np.ndarray, c: np.ndarray) -> None:
        lengths = np.sqrt((r * r).sum(-1) * (c * c).sum(-1))
        products = (r * c).sum(-1)
        # A vector of zeros has cosine 1 with another vector of zeros, and 0 with any other.
        same = np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), np.all(r == c, -1))
        self.signal += float((r * r).sum())
        np.subtract(c, r, out=c)
        np.abs(c, out=c)
        if not np.isfinite(c).all():
            c[~np.isfinite(c)] = math.inf
            same = np.nan_to_num(same)
        self.cosines += float(same.sum())
        self.vectors += len(r)
        self.count += r.size
        self.largest = max(self.largest, float(c.max(initial=0)))
        self.total += float(c.sum())
        self.noise += float((c * c).sum())

    @property
    def mean(self) -> float:
        """The mean absolute difference."""
        return self.total / max(self.count, 1)

    @property
    def cosine(self) -> float:
        """The mean cosine, at most 1."""
        return min(self.cosines / max(self.vectors, 1), 1.0)

    @property
    def sqnr(self) -> float:
        """SQNR in dB; infinite if there is no difference."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 and self.noise < math.inf else -math.inf

    def as_dict(self) -> dict[str, float | None]:
        """Return the figures for JSON, with None for infinite ones."""
        figures = {"max": self.largest, "mean": self.mean, "cosine": self.cosine, "sqnr_db": self.sqnr}
        return {name: finite(value) for name, value in figures.items()}


@dataclass
class Distribution:
    """How a candidate's next-token distribution q differs from the reference's p, for each position.

    KL = Σ p ln(p / q), Δp = q(t) - p(t) for the actual next token t, same top = p and q are largest for the same token,
    and the negative log-likelihood of t under both, which gives the perplexities. These are the figures of
    llama-perplexity (github.com/ggml-org/llama.cpp, tools/perplexity).
    """

    kl: list[np.ndarray] = field(default_factory=list)
    delta: list[np.ndarray] = field(default_factory=list)
    tops: list[np.ndarray] = field(default_factory=list)  # int64 [S, 2]: the most likely tokens of p and q
    top_p: list[np.ndarray] = field(default_factory=list)  # float64 [S, 2]: their probabilities
    nll: list[np.ndarray] = field(default_factory=list)  # float64 [S, 2]: of t

    def add(self, reference: np.ndarray, candidate: np.ndarray, targets: np.ndarray) -> None:
        """Add positions: logits [S, vocab] of both models, and the actual next tokens int64 [S]."""
        p, q = log_softmax(reference), log_softmax(candidate)
        rows = np.arange(len(targets))
        self.delta.append(np.exp(q[rows, targets]) - np.exp(p[rows, targets]))
        self.nll.append(-np.stack([p[rows, targets], q[rows, targets]], -1))
        self.tops.append(np.stack([p.argmax(-1), q.argmax(-1)], -1))
        self.top_p.append(np.exp(np.stack([p.max(-1), q.max(-1)], -1)))
        self.kl.append(kl_divergence(p, q))

    def close(self) -> None:
        """Join the positions: each list becomes a list of one array."""
        for name in ("kl", "delta", "tops", "top_p", "nll"):
            setattr(self, name, [np.concatenate(getattr(self, name))])

    def summary(self) -> dict[str, Any]:
        """Return the figures. `…_error` is the standard error of a mean; a perplexity is exp(mean nll)."""
        kl, delta, tops, nll = self.kl[0], self.delta[0], self.tops[0], self.nll[0]
        log_ratio = nll[:, 1] - nll[:, 0]
        perplexities = [exp(float(mean)) for mean in nll.mean(0)]
        return {
            "positions": len(kl),
            "perplexity_reference": perplexities[0],
            "perplexity": perplexities[1],
            "perplexity_ratio": exp(float(log_ratio.mean())),
            "ln_perplexity_ratio": float(log_ratio.mean()),
            "ln_perplexity_ratio_error": standard_error(log_ratio),
            "kl": {
                "mean": float(kl.mean()),
                "mean_error": standard_error(kl),
                **{name: float(np.percentile(kl, percent)) for name, percent in PERCENTILES.items()},
            },
            "delta_p": {
                "mean": float(delta.mean()),
                "rms": float(np.sqrt((delta * delta).mean())),
                "max": float(delta.max()),
                "min": float(delta.min()),
            },
            "same_top": float((tops[:, 0] == tops[:, 1]).mean()),
        }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return ln softmax, float64 [S, vocab]. In float32, rounding alone would give a KL of about 1e-6."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(-1, keepdims=True))
    return wide


def kl_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return KL = Σ p ln(p / q) in nats, float64 [S], of distributions given as ln p and ln q, float64 [S, vocab]."""
    likely = np.exp(p)
    terms = np.subtract(p, q, out=np.zeros_like(p), where=likely > 0)  # 0 · ln 0 = 0
    terms *= likely
    return np.asarray(np.maximum(terms.sum(-1), 0))  # KL is never negative, but rounding can make it slightly so


def finite(value: float) -> float | None:
    """Return a number for JSON: None if it is not finite."""
    return value if math.isfinite(value) else None
