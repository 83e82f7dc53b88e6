#!/usr/bin/env python3
"""Export a checkpoint to a model directory, one ONNX shard per decoder layer, one in memory at a time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.commands.generate import guard
from llama_onnx.export.exporter import export


def main() -> int:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python tools/export_onnx.py checkpoints/alpaca models/alpaca --dtype fp16"
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="Hugging Face directory (safetensors or .bin, GPTQ and AWQ too), Meta directory, GGUF or llama2.c file, "
        "fp32 or fp16 model directory, "
        "or organisation/name[@revision] on the Hugging Face hub",
    )
    parser.add_argument("out", metavar="OUT", help="model directory to make")
    parser.add_argument(
        "--dtype", choices=("fp32", "fp16", "int8", "int4"), default="fp32", help="of the matrices (default: fp32)"
    )
    parser.add_argument(
        "--block-size",
        type=int,
        default=128,
        metavar="N",
        help="weights that share a scale in int8 and int4 (default: 128)",
    )
    parser.add_argument(
        "--ops",
        choices=("ort", "onnx"),
        default="ort",
        help="ONNX Runtime's fused operators, or standard ONNX operators only, for other runtimes (default: ort)",
    )
    options = parser.parse_args()
    return guard(lambda: export(options.source, options.out, options.dtype, options.block_size, options.ops))


if __name__ == "__main__":
    sys.exit(main())
