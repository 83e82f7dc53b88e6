"""Activations of the MLP, by the names transformers uses, and the soft-cap, in standard ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph


def activate(g: Graph, name: str, activation: str, value: str) -> str:
    """Add the nodes of an activation, one of `spec.ACTIVATIONS`."""
    if activation in ("silu", "swish"):
        return g.node("Mul", name, [value, g.node("Sigmoid", name, [value])])
    if activation.startswith("gelu"):
        return g.node("Gelu", name, [value], approximate="none" if activation == "gelu" else "tanh")
    value = g.node("Relu", name, [value])
    return g.node("Mul", name, [value, value]) if activation == "relu2" else value


def softcap(g: Graph, name: str, value: str, cap: float, outputs: Sequence[str] = ()) -> str:
    """Add the nodes of c · tanh(value / c)."""
    limit = g.floats(f"{name}/cap", cap)
    bent = g.node("Tanh", name, [g.node("Div", name, [value, limit])])
    return g.node("Mul", name, [bent, limit], outputs)
