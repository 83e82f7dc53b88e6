"""Convert an fp32 model directory to fp16: it takes half the bytes on disk, and still computes in float32.

Needs the packages of the extra 'tools'.
"""

from __future__ import annotations

import argparse

EXAMPLES = "example: %(prog)s models/alpaca models/alpaca-fp16"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the conversion."""
    parser.add_argument("source", metavar="SOURCE", help="fp32 model directory")
    parser.add_argument("out", metavar="OUT", help="fp16 model directory to make")


def run(options: argparse.Namespace) -> None:
    """Convert the model directory."""
    from ..export.fp16 import convert

    convert(options.source, options.out)
