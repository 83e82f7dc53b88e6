"""Activations of the MLP, in standard ONNX operators, by the names that transformers gives them."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph


def activate(g: Graph, name: str, activation: str, value: str) -> str:
    """Add the nodes of one of `ACTIVATIONS`."""
    if activation in ("silu", "swish"):
        return g.node("Mul", name, [value, g.node("Sigmoid", name, [value])])
    if activation.startswith("gelu"):
        return g.node("Gelu", name, [value], approximate="none" if activation == "gelu" else "tanh")
    value = g.node("Relu", name, [value])
    return g.node("Mul", name, [value, value]) if activation == "relu2" else value


def softcap(g: Graph, name: str, value: str, cap: float, outputs: Sequence[str] = ()) -> str:
    """c · tanh(value / c)."""
    limit = g.floats(f"{name}/cap", cap)
    bent = g.node("Tanh", name, [g.node("Div", name, [value, limit])])
    return g.node("Mul", name, [bent, limit], outputs)
