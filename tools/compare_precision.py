#!/usr/bin/env python3
"""Compare model directories with a reference over a text: layer by layer, at the logits, and weight by weight.

Each model streams through a memory pool of its own, one shard of each in memory at a time. Prints tables or JSON;
--plot writes a page with charts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.compare import EXAMPLES, add_options, check
from llama_onnx.commands.terminal import HelpFormatter, guard, read_text


def run(options: argparse.Namespace) -> None:
    """Compare the models and print the tables."""
    check(options)
    from llama_onnx.export.compare.comparison import compare_models
    from llama_onnx.export.compare.models import open_models
    from llama_onnx.export.compare.page import write_page
    from llama_onnx.export.compare.results import tables

    text = read_text(options.text)
    reference, candidates = open_models(options.models, options.torch, options.threads)
    found = compare_models(
        reference, candidates, text, options.text, options.ctx_size, options.max_tokens, not options.no_weights
    )
    if options.plot:
        write_page(found, options.plot)
    print(json.dumps(found.as_dict(), indent=1) if options.json else tables(found, options.rows))


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(
        "python tools/compare_precision.py", description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    return guard(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
