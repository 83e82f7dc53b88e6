#!/usr/bin/env python3
"""The quant table: bits and error of each matrix, as CSV, and a plot of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.generate import guard
from llama_onnx.export.quantize.table import FILE, plot, read_table


def main() -> int:
    """Parse the command line and plot."""
    parser = argparse.ArgumentParser(
        description="Plot the quant table that tools/quantize.py leaves in a model directory.",
        epilog="example: python tools/quant_table.py models/alpaca-int4 alpaca-int4.png",
    )
    parser.add_argument("table", metavar="TABLE", type=Path, help="quant_table.csv, or the model directory it is in")
    parser.add_argument("picture", metavar="PICTURE", type=Path, help="file to write: .png, .svg or .pdf")
    options = parser.parse_args()
    table = options.table / FILE if options.table.is_dir() else options.table
    return guard(lambda: plot(read_table(table), options.picture))


if __name__ == "__main__":
    sys.exit(main())
