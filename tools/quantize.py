#!/usr/bin/env python3
"""Quantise a checkpoint, or an fp32 or fp16 model directory, to 2, 4 or 8 bits, one layer in memory at a time."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# The methods share their work out to threads themselves; a BLAS that did it again would only wait for its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from llama_onnx.commands.generate import guard
from llama_onnx.export.nbits import BITS, BLOCK_SIZES
from llama_onnx.export.quantize.bits import FLOAT_BITS, RULES
from llama_onnx.export.quantize.layer import Settings
from llama_onnx.export.quantize.methods.registry import METHODS
from llama_onnx.export.quantize.quantizer import FORMATS, Options, quantize
from llama_onnx.export.quantize.table import FILE, check_plot, plot, read_table


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/quantize.py checkpoints/alpaca models/alpaca-int4 --algo gptq --block_size 32",
    )
    defaults, more = Settings(), Options()

    def add(group: Any, *names: str, default: Any = None, help: str, **rest: Any) -> None:
        shown = "" if default in (None, False, ()) else " (default: %(default)s)"
        group.add_argument(*names, default=default, help=help + shown, **rest)

    parser.add_argument(
        "source", metavar="SOURCE", help="fp32 or fp16 model directory, or any checkpoint that the export reads"
    )
    parser.add_argument("out", metavar="OUT", help="model directory to make")
    group = parser.add_argument_group("method")
    add(group, "--algo", choices=METHODS, default="k_quant", help="rtn, k_quant and hqq read no text, awq and gptq do")
    add(group, "--bits", type=int, choices=BITS, default=more.bits, help="of a weight")
    add(
        group,
        "--block_size",
        "--block-size",
        type=int,
        choices=BLOCK_SIZES,
        default=defaults.block_size,
        help="weights that share a scale",
    )
    group.add_argument("--use_zero_point", "--use-zero-point", action="store_true", help="a zero point for each block")
    add(
        group,
        "--format",
        choices=FORMATS,
        default=more.form,
        help="nbits: MatMulNBits, fast in ONNX Runtime; qdq: DequantizeLinear + MatMul, standard operators",
    )
    group = parser.add_argument_group("mixed precision")
    add(
        group,
        "--lm_head_bits",
        "--lm-head-bits",
        type=int,
        choices=(*BITS, FLOAT_BITS),
        help="of lm_head (default: as --bits says)",
    )
    add(
        group,
        "--embedding_bits",
        "--embedding-bits",
        type=int,
        choices=(4, 8, FLOAT_BITS),
        default=more.embedding_bits,
        help="of the embedding",
    )
    add(
        group,
        "--layers_8bit",
        "--layers-8bit",
        metavar="LIST",
        help="layers or matrices that get 8 bits: 0,31,5.mlp.down_proj",
    )
    add(
        group, "--mixed", metavar="RULE", help=f"{', '.join(RULES)}, or a table of layer, tensor and bits (CSV or JSON)"
    )
    add(
        group,
        "--budget",
        type=float,
        default=more.budget,
        metavar="BITS",
        help="mean bits of a weight that auto may spend, scales not counted",
    )
    group = parser.add_argument_group("calibration (awq, gptq and auto)")
    add(group, "--dataset", action="append", metavar="FILE", help="text file; repeatable (default: a built-in text)")
    add(group, "--calib_size", "--calib-size", type=int, default=more.calib_size, metavar="N", help="samples")
    add(
        group,
        "--calib_length",
        "--calib-length",
        type=int,
        default=more.calib_length,
        metavar="N",
        help="tokens of a sample",
    )
    add(
        group,
        "--awqlite_alpha_step",
        type=float,
        default=defaults.alpha_step,
        metavar="X",
        help="step of the search for scales",
    )
    add(
        group,
        "--awqclip_alpha_step",
        type=float,
        default=defaults.clip_step,
        metavar="X",
        help="step of the search for ranges",
    )
    add(
        group,
        "--awqclip_alpha_min",
        type=float,
        default=defaults.clip_min,
        metavar="X",
        help="the shortest range tried",
    )
    add(
        group,
        "--gptq_damp",
        type=float,
        default=defaults.damp,
        metavar="X",
        help="share of the mean diagonal added to it",
    )
    group.add_argument(
        "--gptq_in_order", action="store_true", help="quantise inputs as they come, not those that matter most first"
    )
    group.add_argument(
        "--per_matrix",
        action="store_true",
        help="observe what a matrix reads once those before it in its layer are quantised: slower",
    )
    parser.add_argument("--plot", type=Path, metavar="PICTURE", help="draw the quant table (needs matplotlib)")
    return parser.parse_args(arguments)


def run(given: argparse.Namespace) -> None:
    """Quantise as the command line says."""
    settings = Settings(
        algo=given.algo,
        block_size=given.block_size,
        zero_point=given.use_zero_point,
        alpha_step=given.awqlite_alpha_step,
        clip_step=given.awqclip_alpha_step,
        clip_min=given.awqclip_alpha_min,
        damp=given.gptq_damp,
        descending=not given.gptq_in_order,
        per_matrix=given.per_matrix,
    )
    options = Options(
        bits=given.bits,
        head_bits=given.lm_head_bits,
        embedding_bits=given.embedding_bits,
        layers_8bit=given.layers_8bit,
        mixed=given.mixed,
        budget=given.budget,
        form=given.format,
        dataset=tuple(given.dataset or ()),
        calib_size=given.calib_size,
        calib_length=given.calib_length,
    )
    if given.plot:
        check_plot(given.plot)  # before hours of work
    quantize(given.source, given.out, settings, options)
    if given.plot:
        plot(read_table(Path(given.out) / FILE), given.plot)


def main() -> int:
    """Parse the command line and quantise."""
    options = parse()
    return guard(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
