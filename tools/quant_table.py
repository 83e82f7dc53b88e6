#!/usr/bin/env python3
"""Draw the quant table that tools/quantize.py leaves in a model directory: bits and error of each matrix."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.terminal import HelpFormatter, guard


def run(options: argparse.Namespace) -> None:
    """Read the table and draw it."""
    from llama_onnx.export.quantize.table import FILE, plot, read_table

    table = options.table / FILE if options.table.is_dir() else options.table
    plot(read_table(table), options.picture)


def main() -> int:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(
        "python tools/quant_table.py",
        description=__doc__,
        epilog="example: %(prog)s models/alpaca-int4 alpaca-int4.png",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("table", metavar="TABLE", type=Path, help="quant_table.csv, or the model directory it is in")
    parser.add_argument("picture", metavar="PICTURE", type=Path, help="file to write: .png, .svg or .pdf")
    options = parser.parse_args()
    return guard(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
