"""Runs a reference and its candidates over a text in lockstep, with one shard of each in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...scoring import layerwise
from ...scoring.perplexity import Window
from .metrics import Distribution, Error
from .models import OnnxModel, Reference

GROUP_BYTES = 256 << 20  # states of all models together


@dataclass
class ShardErrors:
    """Errors after one shard, with the reference's input (local) and with the candidate's own input (accumulated)."""

    name: str
    local: Error = field(default_factory=Error)
    accumulated: Error = field(default_factory=Error)


@dataclass
class Outcome:
    """The results for one candidate."""

    model: OnnxModel
    shards: list[ShardErrors]
    distribution: Distribution = field(default_factory=Distribution)


def compare(
    reference: Reference,
    candidates: Sequence[OnnxModel],
    views: Sequence[Window],
    group_bytes: int = GROUP_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Compare candidates with a reference over the windows of a text.

    Args:
        reference: of the same shape as all candidates; see `models.check_match`.
        candidates: at least one.
        views: windows of the text. Errors cover all positions, distributions only those with a scored token.
        group_bytes: memory for the states of the windows that go through the layers together. A longer text is split
            into groups, and every shard is loaded once per group.
        on_progress: called after each shard with the number done and the total.
    """
    layers = reference.sizes["num_layers"]
    names = ["embed", *(f"decoder-{i:02d}" for i in range(layers)), "head"]
    outcomes = [Outcome(model, [ShardErrors(name) for name in names]) for model in candidates]
    states_per_model = layers + 2 if reference.kind == "torch" else 3  # before and after a layer, and one in between
    share = group_bytes // (states_per_model + len(candidates))
    groups = list(layerwise.split(candidates[0].decoder, (view.ids for view in views), share))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, len(names) * len(groups))

    waiting = iter(views)
    for group in groups:
        _compare_group(reference, outcomes, [next(waiting) for _ in group], advance)
    for outcome in outcomes:
        outcome.distribution.close()
    return outcomes


def _compare_group(
    reference: Reference, outcomes: Sequence[Outcome], views: Sequence[Window], advance: Callable[[], None]
) -> None:
    before: list[np.ndarray] = []
    own: list[list[np.ndarray]] = [[] for _ in outcomes]
    for place, after in enumerate(reference.walk([view.ids for view in views])):
        for outcome, states in zip(outcomes, own, strict=True):
            errors = outcome.shards[place]
            for n, expected in enumerate(after):
                if place == 0:
                    states.append(outcome.model.embed(views[n].ids))
                    errors.local.add(expected, states[n])
                else:
                    errors.local.add(expected, outcome.model.layer(place - 1, before[n]))
                    states[n] = outcome.model.layer(place - 1, states[n])
                errors.accumulated.add(expected, states[n])
        before = after
        advance()

    # A norm that is a separate shard is loaded once for all windows, then the head.
    ends = [[outcome.model.norm(hidden) for hidden in states] for outcome, states in zip(outcomes, own, strict=True)]
    local = [[outcome.model.norm(hidden) for hidden in before] for outcome in outcomes]
    before = [reference.norm(hidden) for hidden in before]
    size = layerwise.positions_at_once(reference.sizes["vocab_size"])
    for n, view in enumerate(views):
        for start in range(0, len(view.ids), size):
            part = slice(start, start + size)
            expected = reference.head(before[n][:, part])
            scored = slice(max(view.first_scored - 1, start), min(len(view.ids) - 1, start + size))
            inside = slice(scored.start - start, scored.stop - start)
            for outcome, end, given in zip(outcomes, ends, local, strict=True):
                errors = outcome.shards[-1]
                errors.local.add(expected, outcome.model.head(given[n][:, part]))
                logits = outcome.model.head(end[n][:, part])
                errors.accumulated.add(expected, logits)
                if scored.start < scored.stop:
                    targets = view.ids[scored.start + 1 : scored.stop + 1]
                    outcome.distribution.add(expected[inside], logits[inside], targets)
    advance()
