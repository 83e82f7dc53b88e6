"""The report as one HTML page, in light or dark colours. It needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RequestError
from ...memory import format_size
from ...scoring.perplexity import windows_of
from . import charts
from .results import Comparison, labels_of, logit_rows, number, shard_rows
from .weights import RANGE

STYLE = Path(__file__).with_name("page.css")


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page.

    Raises:
        RequestError: the file cannot be written.
    """
    try:
        path.write_text(page(comparison), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror})") from None


def page(c: Comparison) -> str:
    """Return the page."""
    (reference,) = labels_of([c.reference.path])
    sections = [_tiles(c), _layers(c), _distribution(c), _agreement(c), _weights(c), _histograms(c), _figures(c)]
    sections += [_worst(c)]
    intro = (
        f"{c.reference.kind}, {format_size(c.reference.bytes)} · {escape(c.text)}: {len(c.ids)} tokens in "
        f"{windows_of(c.windows, c.ctx)}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(reference)}: comparison</title><style>\n{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f'<body><h1>How close to {escape(reference)}?</h1><p class="note">{intro}</p>\n'
        + "\n".join(filter(None, sections))
        + "\n</body></html>\n"
    )


def _tiles(c: Comparison) -> str:
    tiles = []
    for n, (label, outcome) in enumerate(zip(c.labels, c.outcomes, strict=True)):
        found = outcome.distribution.summary()
        rows = [
            ("perplexity", f"× {found['perplexity_ratio']:.4f}"),
            ("same top token", f"{100 * found['same_top']:.1f} %"),
            ("KL 99 %", number(found["kl"]["99%"])),
            ("Δp RMS", f"{100 * found['delta_p']['rms']:.2f} %"),
            ("size", f"{format_size(outcome.model.bytes)} ({outcome.model.kind})"),
        ]
        share = min(100.0, 100 * outcome.model.bytes / max(c.reference.bytes, 1))
        tiles.append(
            f'<div class="tile c{n % 6}"><h3>{escape(label)}</h3><b>{number(found["kl"]["mean"])}</b>'
            f'<span class="note">mean KL, nats per token</span><dl>{_pairs(rows)}</dl>'
            f'<div class="bar" title="{share:.0f} % of the reference"><i style="width:{share:.1f}%"></i></div></div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _layers(c: Comparison) -> str:
    names = [shard.name for shard in c.outcomes[0].shards]
    local, own = (
        [[getattr(shard, kind).sqnr for shard in outcome.shards] for outcome in c.outcomes]
        for kind in ("local", "accumulated")
    )
    note = (
        "The error of each layer by itself (dotted: with the reference's input) and accumulated up to it (solid: with "
        "the output of the candidate's own previous layer). Layers without any difference have no point."
    )
    extra = '<span class="dotted" style="--c:var(--muted)">reference\'s input</span>'
    extra += '<span style="--c:var(--muted)">its own input</span>'
    return _section(
        "Error along the layers", note, _legend(c.labels, extra) + charts.layer_errors(names, local, own, c.labels)
    )


def _distribution(c: Comparison) -> str:
    note = "How far the candidate's distribution of the next token is from the reference's, over all positions."
    ridges = charts.kl_ridges([outcome.distribution.kl[0] for outcome in c.outcomes], c.labels)
    return _section("KL divergence", note, ridges)


def _agreement(c: Comparison) -> str:
    panels = []
    for label, outcome in zip(c.labels, c.outcomes, strict=True):
        likely = np.exp(-outcome.distribution.nll[0])
        panels.append(f"<div><h3>{escape(label)}</h3>{charts.agreement(likely[:, 0], likely[:, 1])}</div>")
    note = "The probability of the actual next token. On the diagonal, both models give it the same probability."
    return _section("The next token", note, f'<div class="panels">{"".join(panels)}</div>')


def _weights(c: Comparison) -> str:
    maps = []
    for label, report in zip(c.labels, c.weights, strict=False):
        values = {(t.role, _layer(t.shard)): t.error.sqnr for t in report.tensors if t.shard.startswith("decoder-")}
        if any(np.isfinite(list(values.values()))):
            rows = list(dict.fromkeys(role for role, _ in values))
            columns = list(dict.fromkeys(column for _, column in values))
            maps.append(f"<h3>{escape(label)}</h3>{charts.heat_map(rows, columns, values)}")
    note = "SQNR in dB of each matrix, dequantised. The stronger the colour, the larger the error within that model."
    return _section("Weights", note, "".join(maps)) if maps else ""


def _histograms(c: Comparison) -> str:
    if not c.weights:
        return ""
    roles = list(dict.fromkeys(role for report in c.weights for role in report.histograms))
    panels = []
    for role in roles:
        found = [report.histograms.get(role) for report in c.weights]
        reference = next(pair[0] for pair in found if pair)
        lines = [pair[1] if pair else None for pair in found]
        panels.append(f"<div><h3>{escape(role)}</h3>{charts.weight_histogram(reference, lines, RANGE)}</div>")
    note = "Values of all matrices of a kind, in standard deviations of each matrix; counts are on a logarithmic axis."
    legend = _legend(c.labels, '<span class="ref">reference</span>')
    return _section("What the weights look like", note, f'{legend}<div class="panels">{"".join(panels)}</div>')


def _figures(c: Comparison) -> str:
    tables = [_table(["", *c.labels], logit_rows(c))]
    for label, outcome in zip(c.labels, c.outcomes, strict=True):
        head = ["shard", *(f"{kind}{what}" for kind in ("", "own: ") for what in ("SQNR dB", "max", "mean", "cosine"))]
        rows = _table(head, shard_rows(outcome))
        tables.append(f"<details><summary>{escape(label)}: shards, the worst first</summary>{rows}</details>")
    return _section("Figures", "", "".join(tables))


def _worst(c: Comparison) -> str:
    tables = []
    for n, (label, positions) in enumerate(zip(c.labels, c.worst, strict=True)):
        rows = "".join(_position(entry) for entry in positions if entry["kl"] > 0)
        if rows:
            head = "<tr><th>KL</th><th>text and actual next token</th><th>reference</th><th>candidate</th></tr>"
            shown = " open" if n == len(c.labels) - 1 else ""
            table = f'<div class="scroll"><table class="words">{head}{rows}</table></div>'
            tables.append(f"<details{shown}><summary>{escape(label)}</summary>{table}</details>")
    note = "The positions with the largest divergence, and the token each model finds most likely there."
    return _section("Where they differ most", note, "".join(tables)) if tables else ""


def _position(entry: dict[str, Any]) -> str:
    def top(which: str) -> str:
        return f"<td><code>{_visible(entry[which]['token'])}</code> {100 * entry[which]['p']:.0f} %</td>"

    return (
        f'<tr><td class="n">{number(entry["kl"])}</td><td><code>{escape(entry["before"])}'
        f"<mark>{_visible(entry['next'])}</mark></code></td>{top('reference_top')}{top('candidate_top')}</tr>"
    )


def _visible(token: str) -> str:
    return escape(token.replace("\n", "⏎").replace("\t", "⇥") or "∅")


def _section(title: str, note: str, content: str) -> str:
    words = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{words}{content}</section>"


def _legend(labels: Sequence[str], extra: str = "") -> str:
    names = "".join(f'<span class="c{n % 6}">{escape(label)}</span>' for n, label in enumerate(labels))
    return f'<div class="legend">{names}{extra}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{first}</tr>{lines}</table></div>'


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)


def _layer(shard: str) -> str:
    return str(int(shard.removeprefix("decoder-")))
