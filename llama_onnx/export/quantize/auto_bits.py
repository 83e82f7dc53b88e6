"""Mixed precision under a budget: more bits for the matrices whose rounding changes the logits most.

The cost of a matrix is measured: it is the KL divergence of the logits when this matrix alone is quantised. One pass
through the model measures all of them. Each layer adds a variant of the hidden states for each of its matrices. From
there on, all variants go through the layers together, and at the head each is compared with the unquantised model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import RequestError
from ..compare.metrics import kl_divergence, log_softmax
from ..families.spec import EMBEDDING, DecoderSpec
from ..graphs.weights import Weights
from ..nbits import dequantize
from ..packages import onnx
from ..progress import progress
from .bits import HEAD, matrix_names
from .calibration import run_shard
from .layer import FloatLayer
from .methods.registry import data_free
from .settings import Settings

MEMORY = 256 << 20  # bytes for the hidden states of all variants
FEWEST, MOST = 64, 1024  # limits of the number of tokens that a variant is measured on
STEPS = {2: 4, 4: 8}  # the next larger number of bits


@dataclass(frozen=True)
class Cost:
    """The KL divergence in nats, by bits, that results from quantising one matrix alone; `size` counts its weights."""

    size: int
    by_bits: Mapping[int, float]

    def gain(self, bits: int) -> float:
        """Return how much KL the next step up from `bits` saves per bit spent."""
        return (self.by_bits[bits] - self.by_bits[STEPS[bits]]) / (self.size * (STEPS[bits] - bits))


def spend(costs: Mapping[str, Cost], lowest: int, budget: float, fixed: Mapping[str, int]) -> dict[str, int]:
    """Return bits by name, chosen so that the mean over all weights is at most the budget.

    All matrices start at the lowest bits. Then the step up that saves most per bit is taken, again and again; a step
    that exceeds the rest of the budget is skipped.

    Args:
        costs: of all matrices.
        lowest: bits to start with, 2 or 4.
        budget: mean bits per weight.
        fixed: bits of the matrices that are already decided.

    Raises:
        RequestError: the budget is too small even for the lowest bits.
    """
    bits = {name: fixed.get(name, lowest) for name in costs}
    size = sum(cost.size for cost in costs.values())
    needed = sum(cost.size * bits[name] for name, cost in costs.items()) / size
    if budget < needed:
        raise RequestError(
            f"a --budget of {budget} bits is too small: the fixed bits, and {lowest} for every other matrix, take "
            f"{math.ceil(100 * needed) / 100:g}; give at least that"
        )
    left = size * (budget - needed)
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
    rope: Mapping[str, Sequence[onnx.TensorProto]],
    tried: Sequence[int],
) -> dict[str, dict[int, float]]:
    """Return the KL divergence in nats by matrix and bits.

    Args:
        spec: of the model.
        weights: its tensors in float32.
        settings: the method. If it needs calibration text, k_quant is measured instead.
        folder: for the files of a layer; it contains the rope tables.
        samples: int64 [samples, length].
        rope: the rope tables.
        tried: bits to measure. The cost of 8 bits is estimated from the step sizes of 4 and 8 bits.
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
        layer.matrix(name)[:] = dequantize(data_free(settings.algo)(matrix, settings.form(bits)))

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
    base = [logits.copy() for logits in _logits(spec, head, states[0])]
    found = [_divergence(base, _logits(spec, head, variant)) for variant in states[1:]]
    for bits in tried:
        original = np.array(head.matrix(HEAD))
        replaced(head, HEAD, bits)
        found.append(_divergence(base, _logits(spec, head, states[0])))
        head.matrix(HEAD)[:] = original
    table_of = {name: dict(zip(tried, found[len(tried) * i :], strict=False)) for i, name in enumerate(names)}
    for costs in table_of.values():
        costs[8] = costs[4] / (127 / 7) ** 2  # the divergence is proportional to the square of the step size
    return table_of


def _stretches(samples: np.ndarray, tokens: int) -> np.ndarray:
    length = min(samples.shape[1], tokens)
    return samples[: max(1, tokens // length), :length]


def _through(spec: DecoderSpec, layer: FloatLayer, hidden: np.ndarray, result: np.ndarray) -> None:
    for i, outputs in run_shard(spec, layer.shard(), hidden):
        result[i] = outputs["hidden_out"][0]


def _logits(spec: DecoderSpec, head: FloatLayer, hidden: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the logits of each sample, float32 [length, vocab]; the next sample overwrites them."""
    return (outputs["logits"][0] for _, outputs in run_shard(spec, head.shard(), hidden, {}, "logits"))


def _divergence(base: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> float:
    """Return the mean KL divergence between the logits of two models, given sample by sample."""
    pairs = zip(base, other, strict=True)
    return float(np.mean([kl_divergence(log_softmax(p), log_softmax(q)) for p, q in pairs]))
