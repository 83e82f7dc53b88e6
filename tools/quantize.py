#!/usr/bin/env python3
"""Quantise a checkpoint, or an fp32 or fp16 model directory, to 2, 4 or 8 bits, one layer in memory at a time.

The model directory that it makes also holds quant_table.csv: bits and error of each matrix.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.quantize import EXAMPLES, add_options, run
from llama_onnx.commands.terminal import HelpFormatter, guard


def main() -> int:
    """Parse the command line and quantise."""
    parser = argparse.ArgumentParser(
        "python tools/quantize.py", description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    return guard(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
