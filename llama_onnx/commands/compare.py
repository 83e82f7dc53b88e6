"""Compare model directories with a reference over a text: layer by layer, at the logits, and weight by weight.

One shard of each model is in memory at a time. Needs the packages of the extra 'tools'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import RequestError
from .models import NAME_HELP, add_offline, open_store
from .options import add_option, add_threads, check_positive
from .terminal import read_text

EXAMPLES = """examples:
  %(prog)s models/mine models/mine-int8 models/mine-int4 --text story.txt
  %(prog)s --torch HF_DIR models/mine --text story.txt --plot report.html
"""
WINDOW = 512  # tokens


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the comparison."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{NAME_HELP}. The first is the reference")
    parser.add_argument("--text", required=True, metavar="FILE", help="text in UTF-8; '-' reads stdin")
    parser.add_argument(
        "--torch", metavar="HF_DIR",
        help="use this checkpoint as the reference for every MODEL (needs torch and transformers)",
    )  # fmt: skip
    add_option(
        parser, "-c", "--ctx-size", aliases=("--ctx",), type=int, metavar="N",
        help=f"tokens in a window (default: {WINDOW}, or the context where that is smaller)",
    )  # fmt: skip
    parser.add_argument("--max-tokens", type=int, metavar="N", help="read only the first N tokens of the text")
    parser.add_argument("--no-weights", action="store_true", help="do not compare the weights")
    parser.add_argument(
        "--rows", type=int, default=10, metavar="N",
        help="rows in the tables of shards and weights (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.html", help="write a page with charts: one file, light and dark"
    )
    add_threads(parser)
    add_offline(parser)


def check(options: argparse.Namespace) -> None:
    """Check the options before the models are read.

    Raises:
        RequestError: models are missing, a number is too small, or the page cannot be written.
    """
    if not options.torch and len(options.models) < 2:
        raise RequestError("give a reference and at least one candidate, or a candidate and --torch HF_DIR")
    check_positive(options, "ctx_size", "max_tokens", "threads", "rows")
    if options.plot and options.plot.suffix not in (".html", ".htm"):
        raise RequestError(f"--plot {options.plot}: the report is an HTML page; give a name such as report.html")
    if options.plot and not options.plot.parent.is_dir():
        raise RequestError(f"--plot {options.plot}: its folder does not exist")


def run(options: argparse.Namespace) -> None:
    """Compare the models and print the tables."""
    check(options)
    from ..export.compare.comparison import compare_models
    from ..export.compare.models import open_models
    from ..export.compare.page import write_page
    from ..export.compare.results import tables

    text = read_text(options.text)
    store = open_store(options)
    models = [store.get(model) for model in options.models]
    reference, candidates = open_models(models, options.torch, options.threads)
    found = compare_models(
        reference, candidates, text, options.text, options.ctx_size, options.max_tokens, not options.no_weights
    )
    if options.plot:
        write_page(found, options.plot)
    print(json.dumps(found.as_dict(), indent=1) if options.json else tables(found, options.rows))
