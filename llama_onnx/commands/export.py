"""Export a checkpoint to a model directory: one ONNX shard for each decoder layer.

Only two tensors are in memory at a time, so that a small machine can export a large model. Run an interrupted export
again, and it continues where it stopped. Needs the packages of the extra 'tools'.
"""

from __future__ import annotations

import argparse

from ..store.names import PRECISIONS
from .models import add_offline, open_store

EXAMPLES = """examples:
  %(prog)s checkpoints/alpaca models/alpaca
  %(prog)s checkpoints/alpaca models/alpaca-int4 --dtype int4 --block-size 32
  %(prog)s model.gguf models/mine            # keeps the file's own precision
"""
OPS = ("ort", "onnx")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the export."""
    parser.add_argument(
        "source", metavar="SOURCE",
        help="Hugging Face directory (safetensors or .bin, GPTQ and AWQ too), Meta directory, GGUF or llama2.c file, "
        "fp32 or fp16 model directory, or organisation/name[/file.gguf][@revision] on the hub",
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", help="model directory to make")
    parser.add_argument(
        "--dtype",
        choices=PRECISIONS,
        help="how the matrices are stored; auto keeps the integers and scales of a quantised file, fast rounds them "
        "once more, into larger blocks, unless the model is small (default: auto for a quantised file or checkpoint, "
        "fp32 for floats)",
    )
    parser.add_argument(
        "--block-size", type=int, metavar="N",
        help="weights that share a scale in int8 and int4 (default: 128, 32 in int4)",
    )  # fmt: skip
    parser.add_argument(
        "--ops", choices=OPS, default="ort",
        help="ort: the fused operators of ONNX Runtime; onnx: standard ONNX operators only, for other runtimes "
        "(default: %(default)s)",
    )  # fmt: skip
    add_offline(parser)


def run(options: argparse.Namespace) -> None:
    """Export the checkpoint."""
    from ..export.exporter import export

    export(open_store(options).source(options.source), options.out, options.dtype, options.block_size, options.ops)
