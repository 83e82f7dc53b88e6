"""The results of a comparison, as plain values for JSON and as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...memory import format_size
from ...scoring.perplexity import windows_of
from ...tokenizer import Tokenizer
from .metrics import PERCENTILES, Error, finite
from .models import Reference
from .walk import Outcome
from .weights import TensorError, WeightReport

WORST_POSITIONS = 12
CONTEXT_TOKENS = 16


@dataclass
class Comparison:
    """Everything that tables and page show. `weights` has a report for each outcome, or is empty."""

    reference: Reference
    outcomes: list[Outcome]
    labels: list[str]
    weights: list[WeightReport]
    ids: np.ndarray
    text: str
    ctx: int
    windows: int
    worst: list[list[dict[str, Any]]]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = []
        for n, outcome in enumerate(self.outcomes):
            shards = [
                {"name": s.name, "local": s.local.as_dict(), "accumulated": s.accumulated.as_dict()}
                for s in outcome.shards
            ]
            entry = {
                "path": outcome.model.path,
                "weights": outcome.model.kind,
                "bytes": outcome.model.bytes,
                "logits": _finite(outcome.distribution.summary()),
                "shards": shards,
                "worst_positions": self.worst[n],
            }
            if self.weights:
                entry["tensors"] = [
                    {"name": t.name, "shard": t.shard, **t.error.as_dict()}
                    for t in _worst_first(self.weights[n].tensors)
                ]
            found.append(entry)
        reference = {"path": self.reference.path, "weights": self.reference.kind, "bytes": self.reference.bytes}
        text = {"file": self.text, "tokens": len(self.ids), "windows": self.windows, "ctx": self.ctx}
        return {"reference": reference, "text": text, "candidates": found}


def worst_positions(outcome: Outcome, targets_at: np.ndarray, ids: np.ndarray, tokenizer: Tokenizer) -> list[dict]:
    """Return the positions where a candidate differs most from the reference, the largest KL first.

    Args:
        outcome: the results of the candidate.
        targets_at: int64 [positions], the index in the text of each predicted token.
        ids: int64 [N], the text.
        tokenizer: of the model.
    """
    kl, tops, top_p = (getattr(outcome.distribution, name)[0] for name in ("kl", "tops", "top_p"))
    found = []
    for n in np.argsort(-kl, kind="stable")[:WORST_POSITIONS]:
        at = int(targets_at[n])
        before = [int(token) for token in ids[max(0, at - CONTEXT_TOKENS) : at]]
        choices = [
            {"token": _text(tokenizer, before, int(token)), "p": float(p)}
            for token, p in zip(tops[n], top_p[n], strict=True)
        ]
        found.append(
            {
                "position": at,
                "kl": float(kl[n]),
                "before": tokenizer.decode(before),
                "next": _text(tokenizer, before, int(ids[at])),
                "reference_top": choices[0],
                "candidate_top": choices[1],
            }
        )
    return found


def labels_of(paths: Sequence[str]) -> list[str]:
    """Return short names: those of the directories if they differ, else the paths."""
    names = [Path(path).name or Path(path).resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def tables(comparison: Comparison, rows: int = 10) -> str:
    """Return the tables: logits of all candidates, then the `rows` worst shards and matrices of each."""
    c = comparison
    lines = [
        f"reference {c.reference.path} ({c.reference.kind}, {format_size(c.reference.bytes)})",
        f"text {c.text}: {len(c.ids)} tokens in {windows_of(c.windows, c.ctx)}",
        "",
        *_columns(["", *c.labels], logit_rows(c)),
    ]
    for n, outcome in enumerate(c.outcomes):
        head = ["shard", "SQNR dB", "max", "mean", "cosine", "own input: SQNR dB", "max", "mean", "cosine"]
        shards = shard_rows(outcome)[:rows]
        title = f"{c.labels[n]}: shards, {_how_many(len(shards), len(outcome.shards))}"
        lines += ["", title, *_columns(head, shards)]
        if c.weights and c.weights[n].tensors:
            tensors = [[t.name, *_figures(t.error)] for t in _worst_first(c.weights[n].tensors)[:rows]]
            title = f"{c.labels[n]}: weights, {_how_many(len(tensors), len(c.weights[n].tensors))}"
            lines += ["", title, *_columns(["tensor", "SQNR dB", "max", "mean", "cosine"], tensors)]
    return "\n".join(lines)


def logit_rows(comparison: Comparison) -> list[list[str]]:
    """Return the figures at the logits as rows of cells: a name, then the value for each candidate."""
    summaries = [outcome.distribution.summary() for outcome in comparison.outcomes]

    def row(name: str, value: Callable[[dict[str, Any]], str]) -> list[str]:
        return [name, *(value(summary) for summary in summaries)]

    sizes = [f"{outcome.model.kind}, {format_size(outcome.model.bytes)}" for outcome in comparison.outcomes]
    return [
        ["weights", *sizes],
        row("perplexity of the reference", lambda s: f"{s['perplexity_reference']:.4f}"),
        row("perplexity", lambda s: f"{s['perplexity']:.4f}"),
        row("perplexity ratio", lambda s: f"{s['perplexity_ratio']:.5f}"),
        row("ln ratio", lambda s: f"{s['ln_perplexity_ratio']:.5f} ± {s['ln_perplexity_ratio_error']:.5f}"),
        row("KL mean", lambda s: f"{number(s['kl']['mean'])} ± {number(s['kl']['mean_error'])}"),
        *([f"KL {name}", *(number(summary["kl"][name]) for summary in summaries)] for name in PERCENTILES),
        row("Δp RMS", lambda s: f"{100 * s['delta_p']['rms']:.3f} %"),
        row("same top", lambda s: f"{100 * s['same_top']:.2f} %"),
    ]  # fmt: skip


def number(value: float) -> str:
    """Return a number in a few characters: 0, 0.0123, 1.2e-07."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.1e}"


def decibel(value: float) -> str:
    """Return a ratio in dB, or 'exact' if there is no noise."""
    return "exact" if value == math.inf else f"{value:.1f}"


def shard_rows(outcome: Outcome) -> list[list[str]]:
    """Return rows of cells, the worst shard first: its name, then the figures with both inputs."""
    worst_first = sorted(outcome.shards, key=lambda shard: shard.local.sqnr)
    return [[shard.name, *_figures(shard.local), *_figures(shard.accumulated)] for shard in worst_first]


def _figures(error: Error) -> list[str]:
    """Return SQNR in dB, max, mean and cosine as they are printed."""
    return [decibel(error.sqnr), number(error.largest), number(error.mean), f"{error.cosine:.6f}"]


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Align the cells of a table: the first column left, the others right."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in table
    ]


def _worst_first(tensors: Sequence[TensorError]) -> list[TensorError]:
    return sorted(tensors, key=lambda tensor: tensor.error.sqnr)


def _how_many(shown: int, total: int) -> str:
    return "the worst first" if shown == total else f"the worst {shown} of {total}"


def _text(tokenizer: Tokenizer, before: list[int], token: int) -> str:
    detokenizer = tokenizer.detokenizer(before)
    return detokenizer.add(token) + detokenizer.finish()


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    return finite(values) if isinstance(values, float) else values
