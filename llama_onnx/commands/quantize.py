"""Quantise a checkpoint, or an fp32 or fp16 model directory, to 2, 4 or 8 bits, one layer in memory at a time.

Needs the packages of the extra 'tools'.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .models import add_offline, open_store
from .options import add_option

if TYPE_CHECKING:
    from ..export.quantize.settings import Options, Settings

EXAMPLES = """examples:
  %(prog)s checkpoints/alpaca models/alpaca-int4 --block-size 32
  %(prog)s checkpoints/alpaca models/alpaca-int4 --algo gptq --block-size 32 --dataset text.txt
  %(prog)s checkpoints/alpaca models/alpaca-mixed --mixed auto --budget 4.5 --plot bits.png
"""
# Repeated from the library, so that --help need not import it. A test compares the two.
METHODS = ("rtn", "rtn_dq", "k_quant", "hqq", "awq_lite", "awq_clip", "awq_full", "gptq")
BITS = (2, 4, 8)
FLOAT_BITS = 16
BLOCK_SIZES = (16, 32, 64, 128, 256)
FORMATS = ("nbits", "qdq")
RULES = ("last_matmul", "first_last", "sensitive", "stored", "auto")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of quantisation. Spellings with underscores are accepted as well."""

    def add(group: argparse._ActionsContainer, name: str, help: str, **more: Any) -> None:
        shown = "" if more.get("default") is None else " (default: %(default)s)"
        old = name[2:].replace("-", "_")
        aliases = (f"--{old}",) if old != name[2:] else ()
        add_option(group, name, aliases=aliases, help=help + shown, **more)

    parser.add_argument(
        "source", metavar="SOURCE", help="fp32 or fp16 model directory, or any checkpoint that `export` reads"
    )
    parser.add_argument("out", metavar="OUT", help="model directory to make")
    group = parser.add_argument_group("method")
    add(
        group, "--algo", "awq and gptq read calibration text; rtn_dq is rtn with --format qdq",
        choices=METHODS, default="k_quant",
    )  # fmt: skip
    add(group, "--bits", "bits of a weight", type=int, choices=BITS, default=4)
    add(group, "--block-size", "weights that share a scale", type=int, choices=BLOCK_SIZES, default=128)
    add(group, "--use-zero-point", "store a zero point for each block", dest="zero_point", action="store_true")
    add(
        group, "--use-minima", "store a float minimum for each block of up to 4 bits: more exact, larger and slower",
        dest="minima", action="store_true",
    )  # fmt: skip
    add(
        group, "--format", "nbits: MatMulNBits, fast in ONNX Runtime; qdq: DequantizeLinear + MatMul, standard ONNX",
        dest="form", choices=FORMATS, default="nbits",
    )  # fmt: skip
    group = parser.add_argument_group("mixed precision")
    add(
        group, "--lm-head-bits", "bits of lm_head; 16 = float16 (default: as --bits)",
        dest="head_bits", type=int, choices=(*BITS, FLOAT_BITS),
    )  # fmt: skip
    add(
        group, "--embedding-bits", "bits of the embedding; 16 = float16",
        type=int, choices=(4, 8, FLOAT_BITS), default=FLOAT_BITS,
    )  # fmt: skip
    add(group, "--layers-8bit", "layers or matrices that get 8 bits: 0,31,5.mlp.down_proj", metavar="LIST")
    add(
        group, "--mixed", f"{', '.join(RULES)}, or a table of layer, tensor and bits (CSV or JSON)", metavar="RULE"
    )  # fmt: skip
    add(
        group, "--budget", "mean bits of a weight that --mixed auto may spend, scales not counted",
        type=float, default=5.0, metavar="BITS",
    )  # fmt: skip
    group = parser.add_argument_group("calibration (awq, gptq and --mixed auto)")
    add(group, "--dataset", "text file; repeatable (default: a built-in text)", action="append", metavar="FILE")
    for name, dest, kind, default, metavar, text in (
        ("--calib-size", "calib_size", int, 32, "N", "samples"),
        ("--calib-length", "calib_length", int, 256, "N", "tokens of a sample"),
        ("--awqlite-alpha-step", "alpha_step", float, 0.1, "X", "step of the search for scales"),
        ("--awqclip-alpha-step", "clip_step", float, 0.05, "X", "step of the search for ranges"),
        ("--awqclip-alpha-min", "clip_min", float, 0.5, "X", "shortest range tried"),
        ("--gptq-damp", "damp", float, 0.01, "X", "share of the mean diagonal that is added to the diagonal"),
    ):
        add(group, name, text, dest=dest, type=kind, default=default, metavar=metavar)
    add(
        group, "--gptq-in-order", "quantise inputs in order, not the most important first",
        dest="descending", action="store_false",
    )  # fmt: skip
    add(
        group, "--per-matrix", "calibrate each matrix after the previous ones of its layer are quantised: slower",
        action="store_true",
    )  # fmt: skip
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PICTURE",
        help="draw the quant table: a .png, .svg or .pdf file (needs matplotlib)",
    )
    add_offline(parser)


def read_options(options: argparse.Namespace) -> tuple[Settings, Options]:
    """Return the settings of the method, and the other options of the quantisation; options are named after fields."""
    from ..export.quantize.settings import Options, Settings

    settings, more = (
        {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}
        for kind in (Settings, Options)
    )
    return Settings(**settings), Options(**{**more, "dataset": tuple(options.dataset or ())})


def run(options: argparse.Namespace) -> None:
    """Quantise the model."""
    from ..export.quantize.quantizer import quantize

    settings, more = read_options(options)
    quantize(open_store(options).source(options.source), options.out, settings, more, options.plot)
