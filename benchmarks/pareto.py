"""What a method of quantisation loses over what it costs: the best of ours, beside which peers, and a drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from report import OURS, THEIRS

COLOURS = {"ours": OURS, "genai": THEIRS[0], "llama.cpp": THEIRS[2]}


class Measured(Protocol):
    """A point of one tool: 'ours', 'genai' or 'llama.cpp'. `loss` is its KL divergence from float32 in nats."""

    @property
    def tool(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def loss(self) -> float: ...


P = TypeVar("P", bound=Measured)


def rivals(points: Sequence[P], cost: Callable[[P], float]) -> list[tuple[P, P | None]]:
    """Return each point of a peer with our best point that costs no more, or None."""
    own = [point for point in points if point.tool == "ours"]
    return [
        (peer, min((p for p in own if cost(p) <= cost(peer) + 1e-9), key=lambda p: p.loss, default=None))
        for peer in points
        if peer.tool != "ours"
    ]


def frontier(points: Sequence[P], cost: Callable[[P], float]) -> list[P]:
    """Return the Pareto-optimal points in the order of their cost: no point that costs as little has a lower loss."""
    best: list[P] = []
    for point in sorted(points, key=lambda point: (cost(point), point.loss)):
        if not best or point.loss < best[-1].loss:
            best.append(point)
    return best


def draw(panel: Any, title: str, points: Sequence[P], cost: Callable[[P], float], label: str) -> None:
    """Draw the losses of all points over their cost, with a line through the best of ours."""
    for tool, colour in COLOURS.items():
        own = [point for point in points if point.tool == tool]
        panel.plot(
            list(map(cost, own)), [p.loss for p in own], "o", ms=5, color=colour, alpha=0.4 if tool == "ours" else 1,
            label=None if tool == "ours" or not own else tool,
        )  # fmt: skip
    edge = frontier([point for point in points if point.tool == "ours"], cost)
    panel.plot(list(map(cost, edge)), [p.loss for p in edge], "-o", color=OURS, lw=1.5, ms=5, label="ours, best")
    for point in points:
        if point.tool == "llama.cpp":
            place = (cost(point), point.loss)
            panel.annotate(point.method, place, (6, 4), textcoords="offset points", fontsize=8)
    panel.set_yscale("log")
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel(label)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", which="both", alpha=0.25)
