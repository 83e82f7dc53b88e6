#!/usr/bin/env python3
"""Convert an fp32 model directory to fp16: half the bytes on disk, the same maths in float32 when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.generate import guard
from llama_onnx.export.fp16 import convert


def main() -> int:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python tools/convert_fp16.py models/alpaca models/alpaca-fp16"
    )
    parser.add_argument("source", metavar="IN", help="fp32 model directory")
    parser.add_argument("out", metavar="OUT", help="fp16 model directory to make")
    options = parser.parse_args()
    return guard(lambda: convert(options.source, options.out))


if __name__ == "__main__":
    sys.exit(main())
