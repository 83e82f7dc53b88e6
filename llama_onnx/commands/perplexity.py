"""Measure how well a model predicts a text.

The text is split into overlapping windows. Each window scores the tokens after the end of the previous one.
"""

from __future__ import annotations

import argparse
import json

from ..scoring.perplexity import perplexity, windows_of
from .options import add_model, add_runtime, check_positive, load_model, show_packing
from .terminal import print_pool, progress_bar, read_text

EXAMPLES = """examples:
  %(prog)s --text story.txt
  %(prog)s -m models/alpaca --text wiki.test.raw --ctx-size 1024 --stride 512
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_model(parser)
    parser.add_argument("--text", required=True, metavar="FILE", help="text in UTF-8; '-' reads stdin")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="tokens from one window to the next (default: half of --ctx-size)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_runtime(parser, "tokens in a window (default: the model's context, at most 2048)")


def run(options: argparse.Namespace) -> None:
    """Print the perplexity of the text."""
    text = read_text(options.text)
    check_positive(options, "ctx_size", "stride")
    lm = load_model(options, show_packing, ctx_size=None)  # the model's own: a window may be smaller
    with progress_bar("perplexity") as show:
        result = perplexity(lm.decoder, lm.tokenizer.encode(text), options.ctx_size, options.stride, show)
    if options.json:
        print(json.dumps({"perplexity": result.value, "error": result.error, **vars(result)}))
    else:
        print(
            f"perplexity {result.value:.4f} ± {result.error:.4f} ({result.tokens} tokens scored, "
            f"{windows_of(result.windows, result.ctx)}, stride {result.stride})"
        )
    if options.verbose:
        print_pool(lm)
