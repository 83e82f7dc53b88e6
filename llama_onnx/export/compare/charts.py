"""Charts as inline SVG. Colours are CSS classes and variables, so that a chart works on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

LEAST_RANGE = 6.0  # dB: the least range of the colour scale, so that small differences do not look large
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 40


@dataclass
class Plot:
    """An SVG chart under construction, with a frame of data coordinates."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: int = LEFT
    bottom: int = BOTTOM
    right: int = RIGHT
    top: int = TOP
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Return the horizontal position of a value in pixels."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Return the vertical position of a value in pixels."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def text(self, x: float, y: float, text: str, classes: str = "", more: str = "") -> None:
        """Draw text at a position in pixels."""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{classes}" {more}>{escape(text)}</text>')

    def segment(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        """Draw a straight line between positions in pixels."""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>')

    def path(self, points: Sequence[tuple[float, float]], classes: str, base: float | None = None) -> None:
        """Draw a line through data points, or fill the area between it and `base`."""
        if not points:
            return
        places = " L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        close = ""
        if base is not None:
            close = f" L{self.x(points[-1][0]):.1f} {self.y(base):.1f} L{self.x(points[0][0]):.1f} {self.y(base):.1f} Z"
        self.parts.append(f'<path d="M{places}{close}" class="{classes}"/>')

    def dot(self, x: float, y: float, title: str, classes: str, radius: float = 3.2) -> None:
        """Draw a point with a tooltip."""
        self.parts.append(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" class="{classes}">'
            f"<title>{escape(title)}</title></circle>"
        )

    def cell(self, x: float, y: float, width: float, height: float, opacity: float, title: str) -> None:
        """Draw a cell of a heat map at a position in pixels."""
        tooltip = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" height="{height:.2f}" class="heat" '
            f'fill-opacity="{opacity:.3f}">{tooltip}</rect>'
        )

    def x_axis(self, ticks: Sequence[tuple[float, str]], title: str = "", grid: bool = False) -> None:
        """Draw ticks along the bottom."""
        floor = self.height - self.bottom
        for value, label in ticks:
            self.segment(self.x(value), self.top if grid else floor, self.x(value), floor + 4, "grid")
            self.text(self.x(value), floor + 16, label, "tick middle")
        if title:
            self.text((self.left + self.width - self.right) / 2, self.height - 5, title, "axis middle")

    def y_axis(self, ticks: Sequence[tuple[float, str]], title: str = "") -> None:
        """Draw ticks and grid lines along the left side."""
        for value, label in ticks:
            self.segment(self.left, self.y(value), self.width - self.right, self.y(value), "grid")
            self.text(self.left - 7, self.y(value) + 4, label, "tick end")
        if title:
            middle = (self.top + self.height - self.bottom) / 2
            self.text(13, middle, title, "axis middle", f'transform="rotate(-90 13 {middle:.1f})"')

    def svg(self, label: str) -> str:
        """Return the element."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def layer_errors(names: Sequence[str], local: Sequence[Sequence[float]], own: Sequence[Sequence[float]],
                 labels: Sequence[str]) -> str:  # fmt: skip
    """Plot SQNR by shard: a dotted line with the reference's input to each, a solid one with the candidate's own.

    Args:
        names: of the shards.
        local: dB for each candidate and shard; infinite values are left out.
        own: like `local`.
        labels: of the candidates.
    """
    values = [value for lines in (local, own) for line in lines for value in line if math.isfinite(value)] or [0.0]
    low, high = min(values), max(values)
    room = max(2.0, 0.06 * (high - low))
    plot = Plot(1000, 380, (-0.4, len(names) - 0.6), (min(low - room, 0 if low < 12 else low - room), high + room))
    plot.y_axis([(tick, f"{tick:g}") for tick in ticks(*plot.y_range)], "SQNR in dB, higher is better")
    step = max(1, -(-len(names) // 22))
    shown = [(n, name) for n, name in enumerate(names) if n % step == 0 or n == len(names) - 1]
    plot.x_axis([(n, name.removeprefix("decoder-").lstrip("0") or "0") for n, name in shown], "layer")
    for number, label in enumerate(labels):
        for kind, line in (("local", local[number]), ("own", own[number])):
            points = [(n, value) for n, value in enumerate(line) if math.isfinite(value)]
            plot.path(points, f"stroke {kind} c{number % 6}")
            for n, value in points:
                words = "the reference's input" if kind == "local" else "its own input"
                tip = f"{label}, {names[n]}: {value:.1f} dB with {words}"
                plot.dot(n, value, tip, f"fill {kind} c{number % 6}", 2.2 if kind == "local" else 3.4)
    return plot.svg("error of each layer")


def kl_ridges(kls: Sequence[np.ndarray], labels: Sequence[str]) -> str:
    """Plot the distribution of KL over positions, on a logarithmic axis, with a ridge for each candidate."""
    positive = np.concatenate([kl[kl > 0] for kl in kls])
    if not len(positive):
        return '<p class="note">No position differs.</p>'
    low = max(math.floor(math.log10(np.percentile(positive, 0.5))), -12)
    high = max(math.ceil(math.log10(positive.max()) + 0.15), low + 1)
    row, width = 86, 1000
    plot = Plot(width, row * len(kls) + 62, (low, high), (0, 1), left=110, right=34, top=22)
    powers = range(low, high + 1, max(1, (high - low) // 10))
    plot.x_axis([(power, f"1e{power}") for power in powers], "KL divergence in nats, each position of the text", True)
    grid = np.linspace(low, high, 260)
    for number, (kl, label) in enumerate(zip(kls, labels, strict=True)):
        floor = plot.top + row * (number + 1)
        logs = np.log10(np.maximum(kl, 10.0**low))
        density = smooth(logs, grid)
        heights = floor - 0.86 * row * density / density.max()
        line = " L".join(f"{plot.x(g):.1f} {h:.1f}" for g, h in zip(grid, heights, strict=True))
        shape = f"M{plot.x(low):.1f} {floor} L{line} L{plot.x(high):.1f} {floor} Z"
        plot.parts.append(f'<path d="{shape}" class="area stroke c{number % 6}"/>')
        plot.text(100, floor - 6, label[:16], f"name end c{number % 6}")
        marks = (("median", 50.0, "middle"), ("99 %", 99.0, "end"), ("max", 100.0, ""))
        for words, percent, anchor in marks:
            value = float(np.percentile(kl, percent))
            if value >= 10.0**low:
                place = plot.x(math.log10(value))
                plot.segment(place, floor - row * 0.55, place, floor, f"stroke mark c{number % 6}")
                plot.text(place, floor - row * 0.6, words, f"tick halo {anchor}")
    return plot.svg("distribution of KL")


def agreement(p: np.ndarray, q: np.ndarray, bins: int = 36) -> str:
    """Plot the probability of the next token in the reference (x) and in the candidate (y), as a density."""
    counts, _, _ = np.histogram2d(p, q, bins, ((0, 1), (0, 1)))
    plot = Plot(320, 320, (0, 1), (0, 1), left=44, top=8, right=8)
    size = (plot.width - plot.left - plot.right) / bins
    tall = (plot.height - plot.top - plot.bottom) / bins
    most = math.log1p(counts.max())
    for i, j in zip(*np.nonzero(counts), strict=True):
        opacity = 0.12 + 0.88 * math.log1p(counts[i, j]) / most
        plot.cell(plot.x(i / bins), plot.y((j + 1) / bins), size, tall, opacity, "")
    plot.segment(plot.x(0), plot.y(0), plot.x(1), plot.y(1), "diagonal")
    marks = [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]
    plot.y_axis(marks, "candidate")
    plot.x_axis(marks, "reference")
    return plot.svg("probability of the next token in both models")


def heat_map(rows: Sequence[str], columns: Sequence[str], values: dict[tuple[str, str], float]) -> str:
    """Plot SQNR of matrices by role and layer. The darker the cell, the larger the error."""
    finite = [value for value in values.values() if math.isfinite(value)] or [0.0]
    high = max(finite)
    low = min(*finite, high - LEAST_RANGE)
    plot = Plot(1000, 24 * len(rows) + 46, (0, len(columns)), (0, len(rows)), left=92, top=6, bottom=40)
    wide = (plot.width - plot.left - plot.right) / len(columns)
    for i, row in enumerate(rows):
        y = plot.top + 24 * i
        plot.text(plot.left - 8, y + 16, row, "tick end")
        for j, column in enumerate(columns):
            if (row, column) not in values:
                continue
            value = values[row, column]
            share = (high - value) / (high - low) if math.isfinite(value) else 0.0
            tip = f"{row}, {column}: " + (f"{value:.1f} dB" if math.isfinite(value) else "exact")
            plot.cell(plot.left + wide * j + 1, y + 1, wide - 2, 22, 0.08 + 0.92 * share, tip)
            if wide > 34 and math.isfinite(value):
                classes = "inside middle strong" if share > 0.6 else "inside middle"
                plot.text(plot.left + wide * (j + 0.5), y + 16, f"{value:.1f}", classes)
    step = max(1, -(-len(columns) // 22))
    plot.x_axis([(j + 0.5, column) for j, column in enumerate(columns) if j % step == 0], "layer")
    return plot.svg("error of the weights by role and layer")


def weight_histogram(reference: np.ndarray, candidates: Sequence[np.ndarray | None], spread: float) -> str:
    """Plot a histogram of the matrices of a role: the reference as an area, candidates as lines, on a log axis."""
    lines = [line for line in candidates if line is not None]
    top = math.log10(max(int(array.max()) for array in (reference, *lines)) + 1)
    plot = Plot(320, 190, (-spread, spread), (0, top * 1.05), left=40, right=8, top=8)
    powers = range(0, math.ceil(top * 1.05), 2 if top > 4 else 1)
    plot.y_axis([(power, f"1e{power}") for power in powers])
    plot.x_axis([(value, f"{value:g}σ") for value in (-4, -2, 0, 2, 4)])
    centers = (np.arange(len(reference)) + 0.5) / len(reference) * 2 * spread - spread

    def steps(counts: np.ndarray) -> list[tuple[float, float]]:
        return list(zip(centers.tolist(), np.log10(counts + 1.0).tolist(), strict=True))

    plot.path(steps(reference), "reference", 0)
    for number, counts in enumerate(candidates):
        if counts is not None:
            plot.path(steps(counts), f"stroke thin c{number % 6}")
    return plot.svg("histogram of weights")


def smooth(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return a Gaussian kernel density of values [n] on a uniform grid, with Silverman's width."""
    width = max(1.06 * float(values.std()) * len(values) ** -0.2, 1.5 * float(grid[1] - grid[0]))
    step = float(grid[1] - grid[0])
    counts, _ = np.histogram(values, len(grid), (grid[0] - step / 2, grid[-1] + step / 2))
    reach = math.ceil(4 * width / step)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    return np.convolve(counts, kernel / kernel.sum(), "full")[reach : reach + len(grid)]


def ticks(low: float, high: float, wanted: int = 7) -> list[float]:
    """Return about `wanted` round numbers between two values."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [step * n for n in range(first, math.floor(high / step) + 1)]
