#!/usr/bin/env python3
"""Compare model directories with a reference over a text: layer by layer, at the logits, and weight by weight.

Each model streams through a memory pool of its own, one shard of each in memory at a time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json

from llama_onnx.commands.generate import guard
from llama_onnx.commands.score import read_text
from llama_onnx.errors import RequestError
from llama_onnx.export.compare.comparison import DEFAULT_CTX, compare_models
from llama_onnx.export.compare.models import OnnxModel, Reference, TorchModel
from llama_onnx.export.compare.page import write_page
from llama_onnx.export.compare.results import tables
from llama_onnx.session import start_runtime

EXAMPLES = """examples:
  python tools/compare_precision.py models/mine models/mine-int8 models/mine-int4 --text story.txt
  python tools/compare_precision.py --torch HF_DIR models/mine --text story.txt --plot report.html
"""


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
    found = compare_models(
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
