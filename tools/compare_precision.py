#!/usr/bin/env python3
"""Compare model directories with a reference over a text: layer by layer, at the logits, and weight by weight.

Each model streams through a memory pool of its own, one shard of each in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from tqdm import tqdm

from llama_onnx.cli import guard
from llama_onnx.cli_scoring import read_text
from llama_onnx.errors import RequestError
from llama_onnx.perplexity import check_windows, windows
from llama_onnx.session import start_runtime
from llama_onnx.tokenizer import load_tokenizer
from tools.comparison.models import OnnxModel, Reference, TorchModel, check_match
from tools.comparison.page import write_page
from tools.comparison.results import Comparison, labels_of, tables, worst_positions
from tools.comparison.walk import GROUP_BYTES, compare
from tools.comparison.weights import compare_weights

DEFAULT_CTX = 512
EXAMPLES = """examples:
  python tools/compare_precision.py models/mine models/mine-int8 models/mine-int4 --text story.txt
  python tools/compare_precision.py --torch HF_DIR models/mine --text story.txt --plot report.html
"""


def run(
    reference: Reference,
    candidates: Sequence[OnnxModel],
    text: str,
    text_name: str = "text",
    ctx: int | None = None,
    max_tokens: int | None = None,
    weights: bool = True,
    group_bytes: int = GROUP_BYTES,
) -> Comparison:
    """Compare candidates with a reference.

    Args:
        reference: an `OnnxModel` or a `TorchModel`.
        candidates: models of the same shape.
        text: what they are run on, in windows that do not overlap.
        text_name: what to call it.
        ctx: tokens in a window; None means 512, or the shortest context of the models.
        max_tokens: only the first so many tokens of the text.
        weights: compare the weights as well, where the reference is a model directory.
        group_bytes: what the states of windows that go through the layers together may take.

    Raises:
        ModelDirectoryError: models that do not match.
        RequestError: a text that is too short, or a window that fits no context.
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
            raise RequestError(f"{other.path} and {owners[0].path} make different tokens of the text")
    views = windows(ids, ctx, ctx)

    with tqdm(desc="comparing", unit="shard", disable=None, leave=False) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        outcomes = compare(reference, candidates, views, group_bytes, on_progress)
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


def _main(options: argparse.Namespace) -> None:
    paths = list(options.models)
    if not options.torch and len(paths) < 2:
        raise RequestError("give a reference and at least one candidate, or a candidate and --torch HF_DIR")
    for name in ("ctx", "max_tokens", "threads", "rows"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise RequestError(f"--{name.replace('_', '-')} must be at least 1")
    if options.plot and not options.plot.endswith((".html", ".htm")):
        raise RequestError(f"--plot {options.plot}: the report is a page; name it report.html")
    if options.plot and not Path(options.plot).parent.is_dir():
        raise RequestError(f"--plot {options.plot}: there is no such folder")
    text = read_text(options.text)
    start_runtime(options.threads)
    reference: Reference = OnnxModel(paths.pop(0)) if not options.torch else TorchModel(options.torch)
    found = run(
        reference, [OnnxModel(path) for path in paths], text, options.text, options.ctx, options.max_tokens,
        not options.no_weights,
    )  # fmt: skip
    if options.plot:
        write_page(found, Path(options.plot))
    print(json.dumps(found.as_dict(), indent=1) if options.json else tables(found, options.rows))


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model directories, the first is the reference")
    parser.add_argument("--text", required=True, metavar="FILE", help="text in UTF-8; '-' reads stdin")
    parser.add_argument(
        "--torch",
        metavar="HF_DIR",
        help="this checkpoint, run by transformers, is the reference for all MODELs",
    )
    parser.add_argument("--ctx", type=int, metavar="N", help=f"tokens in a window (default: {DEFAULT_CTX})")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="only the first N tokens of the text")
    parser.add_argument("--no-weights", action="store_true", help="do not compare the weights")
    parser.add_argument(
        "--rows", type=int, default=10, metavar="N", help="rows of the tables of shards and weights (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--plot", metavar="FILE.html", help="write a page with pictures: one file, light and dark")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads that compute (default: one per core)")
    return guard(lambda: _main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
