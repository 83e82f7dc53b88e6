"""Activations of the MLP, in standard ONNX operators, by the names that transformers gives them."""

from __future__ import annotations

from .graph import Graph

ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "relu", "relu2")


def activate(g: Graph, name: str, activation: str, value: str) -> str:
    """Add the nodes of one of `ACTIVATIONS`."""
    if activation in ("silu", "swish"):
        return g.node("Mul", name, [value, g.node("Sigmoid", name, [value])])
    if activation.startswith("gelu"):
        return g.node("Gelu", name, [value], approximate="none" if activation == "gelu" else "tanh")
    value = g.node("Relu", name, [value])
    return g.node("Mul", name, [value, value]) if activation == "relu2" else value
