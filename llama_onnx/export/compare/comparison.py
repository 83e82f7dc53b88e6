"""Compare model directories with a reference over a text: layer by layer, at the logits, and weight by weight.

Each model has its own memory pool, with one shard in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import RequestError
from ...scoring.perplexity import check_windows, windows
from ...text.open import load_tokenizer
from ..packages import tqdm
from .models import OnnxModel, Reference, check_match
from .results import Comparison, labels_of, worst_positions
from .walk import compare
from .weights import compare_weights

DEFAULT_CTX = 512


def compare_models(
    reference: Reference,
    candidates: Sequence[OnnxModel],
    text: str,
    text_name: str = "text",
    ctx: int | None = None,
    max_tokens: int | None = None,
    weights: bool = True,
) -> Comparison:
    """Compare candidates with a reference.

    Args:
        reference: an `OnnxModel` or a `TorchModel`.
        candidates: models of the same shape.
        text: what they run on, in windows that do not overlap.
        text_name: its name in the report.
        ctx: tokens in a window; None means `DEFAULT_CTX`, or the shortest context of the models if that is shorter.
        max_tokens: use only this many tokens from the start of the text.
        weights: also compare the weights, if the reference is a model directory.

    Raises:
        ModelDirectoryError: the models do not match.
        RequestError: the text is too short, or the window is longer than a context.
    """
    for candidate in candidates:
        check_match(reference, candidate)
    context = min(model.context_length for model in (reference, *candidates))
    ctx = ctx or min(DEFAULT_CTX, context)
    check_windows(ctx, ctx, context)
    owners = [model for model in (reference, *candidates) if isinstance(model, OnnxModel)]
    tokenizer = load_tokenizer(owners[0].config)
    ids = np.array(tokenizer.encode(text)[:max_tokens], np.int64)
    for other in owners[1:]:
        if load_tokenizer(other.config).encode(text)[:max_tokens] != ids.tolist():
            raise RequestError(f"{other.path} and {owners[0].path} encode the text differently; use the same tokenizer")
    views = windows(ids, ctx, ctx)

    with tqdm.tqdm(desc="comparing", unit="shard", disable=None, leave=False) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        outcomes = compare(reference, candidates, views, on_progress=on_progress)
    reports = []
    if weights and isinstance(reference, OnnxModel):
        reports = compare_weights(reference.config, [candidate.config for candidate in candidates])
    scored = [n * ctx + np.arange(view.first_scored, len(view.ids)) for n, view in enumerate(views)]
    return Comparison(
        reference=reference,
        outcomes=outcomes,
        labels=labels_of([candidate.path for candidate in candidates]),
        weights=reports,
        ids=ids,
        text=text_name,
        ctx=ctx,
        windows=len(views),
        worst=[worst_positions(outcome, np.concatenate(scored), ids, tokenizer) for outcome in outcomes],
    )
