#!/usr/bin/env python3
"""Convert an fp32 model directory to fp16: half the bytes on disk; the maths stays in float32 when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.convert import EXAMPLES, add_options
from llama_onnx.commands.terminal import HelpFormatter, guard


def run(options: argparse.Namespace) -> None:
    """Convert the model directory."""
    from llama_onnx.export.fp16 import convert

    convert(options.source, options.out)


def main() -> int:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(
        "python tools/convert_fp16.py", description=__doc__, epilog=EXAMPLES, formatter_class=HelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    return guard(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
