#!/usr/bin/env python3
"""Compare model directories with a reference over a text: layer by layer, at the logits, and weight by weight.

Each model streams through a memory pool of its own, one shard of each in memory at a time. Prints tables or JSON;
--plot writes a page with charts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.compare import EXAMPLES, add_options, run
from llama_onnx.commands.terminal import HelpFormatter, guard


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
