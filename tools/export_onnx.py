#!/usr/bin/env python3
"""Export a checkpoint to a model directory: one ONNX shard for each decoder layer, and a manifest written last.

Two tensors are in memory at a time. Run an interrupted export again and it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.export import EXAMPLES, add_options, run
from llama_onnx.commands.terminal import HelpFormatter, guard


def main() -> int:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        "python tools/export_onnx.py", description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    return guard(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
