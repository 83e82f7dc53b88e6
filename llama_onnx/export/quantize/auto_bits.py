"""Mixed precision under a budget: more bits for the matrices whose rounding changes the logits most.

What a matrix costs is measured: the KL divergence of the logits when it alone is quantised. All of that takes one walk
through the model. At each layer, one variant of the hidden states is made for each of its matrices; from there on the
variants go through the layers together, and at the head each is compared with the model as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from ...errors import RequestError
from ..families.spec import EMBEDDING, DecoderSpec
from ..graphs.weights import Weights
from ..nbits import NBits, dequantize
from ..progress import progress
from .bits import HEAD, matrix_names
from .calibration import run_shard
from .layer import FloatLayer, Settings
from .methods import k_quant
from .methods.common import Format
from .methods.registry import DATA_FREE

MEMORY = 256 << 20  # bytes of hidden states of all variants
FEWEST, MOST = 64, 1024  # tokens a variant is measured on
STEPS = {2: 4, 4: 8}  # from so many bits to so many


@dataclass(frozen=True)
class Cost:
    """KL divergence in nats that quantising a matrix alone causes, by bits."""

    size: int
    by_bits: Mapping[int, float]

    def gain(self, bits: int) -> float:
        """Return what a step up from `bits` saves for each bit it takes."""
        return (self.by_bits[bits] - self.by_bits[STEPS[bits]]) / (self.size * (STEPS[bits] - bits))


def spend(costs: Mapping[str, Cost], lowest: int, budget: float, fixed: Mapping[str, int]) -> dict[str, int]:
    """Return bits by name whose mean over the weights is not above the budget.

    All begin at the lowest; the step up that saves most for its bits comes first, one too large for what is left is
    passed over.

    Args:
        costs: of all matrices.
        lowest: bits to begin with, 2 or 4.
        budget: mean bits of a weight.
        fixed: bits of the matrices that have been decided on.

    Raises:
        RequestError: the budget does not even buy the lowest.
    """
    bits = {name: fixed.get(name, lowest) for name in costs}
    left = sum(cost.size * (budget - bits[name]) for name, cost in costs.items())
    if left < 0:
        raise RequestError(f"a budget of {budget} bits is below what is fixed; give at least {lowest}")
    open_steps = {name for name in costs if name not in fixed}
    while open_steps:
        name = max(open_steps, key=lambda each: (costs[each].gain(bits[each]), each))
        price = costs[name].size * (STEPS[bits[name]] - bits[name])
        if price <= left:
            left -= price
            bits[name] = STEPS[bits[name]]
        else:
            open_steps.discard(name)
        if bits[name] not in STEPS:
            open_steps.discard(name)
    return bits


def measure(
    spec: DecoderSpec,
    weights: Weights,
    settings: Settings,
    folder: Path,
    samples: np.ndarray,
    rope: Mapping[str, Sequence[TensorProto]],
    tried: Sequence[int],
) -> dict[str, dict[int, float]]:
    """Return the KL divergence in nats by matrix and bits.

    Args:
        spec: of the model.
        weights: its tensors in float32.
        settings: the method, where it reads no text; else k_quant stands in for it.
        folder: for the files of a layer, with the tables of rope in it.
        samples: int64 [samples, length].
        rope: these tables.
        tried: bits to measure. 8 bits are taken to cost what the widths of their steps say.
    """
    names = matrix_names(spec)
    count = 1 + len(tried) * (len(names) - 1)  # the last matrix, lm_head, changes no hidden states
    tokens = int(np.clip(MEMORY // (4 * spec.hidden_size * count), FEWEST, MOST))
    ids = _stretches(samples, tokens)
    states = np.zeros((count, *ids.shape, spec.hidden_size), np.float32)
    table = weights.table(EMBEDDING, (spec.vocab_size, spec.hidden_size))
    states[0] = table[ids] * np.float32(spec.embedding_scale)
    del table

    def replaced(layer: FloatLayer, name: str, bits: int) -> None:
        matrix = np.array(layer.matrix(name))
        quantise = DATA_FREE.get(settings.algo, k_quant.quantize)
        quantised: NBits = quantise(matrix, Format(bits, settings.block_size, settings.zero_point))
        layer.matrix(name)[:] = dequantize(quantised)

    done = 1
    for i in progress(range(spec.num_layers), "measuring"):
        layer = FloatLayer(spec, weights, i, rope, folder)
        before = states[0].copy()
        for own in (name for name in names if name.startswith(f"{i}.")):
            original = np.array(layer.matrix(own))
            for bits in tried:
                replaced(layer, own, bits)
                _through(spec, layer, before, states[done])
                done += 1
            layer.matrix(own)[:] = original
        passed = 1 + len(tried) * len(spec.projections) * i
        flat = states[:passed].reshape(-1, ids.shape[1], spec.hidden_size)
        _through(spec, layer, flat, flat)
    head = FloatLayer(spec, weights, "head", rope, folder)
    base = _log_softmax(_logits(spec, head, states[0]))
    found = [_divergence(base, _log_softmax(_logits(spec, head, variant))) for variant in states[1:]]
    for bits in tried:
        original = np.array(head.matrix(HEAD))
        replaced(head, HEAD, bits)
        found.append(_divergence(base, _log_softmax(_logits(spec, head, states[0]))))
        head.matrix(HEAD)[:] = original
    table_of = {name: dict(zip(tried, found[len(tried) * i :], strict=False)) for i, name in enumerate(names)}
    for costs in table_of.values():
        costs[8] = costs[4] / (127 / 7) ** 2  # errors go with the square of a step
    return table_of


def _stretches(samples: np.ndarray, tokens: int) -> np.ndarray:
    length = min(samples.shape[1], tokens)
    return samples[: max(1, tokens // length), :length]


def _through(spec: DecoderSpec, layer: FloatLayer, hidden: np.ndarray, result: np.ndarray) -> None:
    for i, outputs in run_shard(spec, layer.shard(), hidden):
        result[i] = outputs["hidden_out"][0]


def _logits(spec: DecoderSpec, head: FloatLayer, hidden: np.ndarray) -> np.ndarray:
    return np.stack([outputs["logits"][0].copy() for _, outputs in run_shard(spec, head.shard(), hidden, {}, "logits")])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _divergence(base: np.ndarray, other: np.ndarray) -> float:
    return float((np.exp(base) * (base - other)).sum(-1).mean(dtype=np.float64))
