#!/usr/bin/env python3
"""The demo: load a model directory, answer or continue a prompt, print the text as it comes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import llama_onnx
from llama_onnx.commands.generate import (
    DEFAULTS,
    POOLSIZE_HELP,
    TEMPLATE_HELP,
    guard,
    print_stats,
    print_stream,
    show_progress,
)
from llama_onnx.text.templates import CHOICES

EMBEDDED_MODEL = Path(__file__).resolve().parent / "models" / "demo"


def main() -> int:
    options = parse_arguments()
    return guard(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    params = llama_onnx.SamplingParams(
        temperature=options.temperature,
        top_k=options.topk,
        top_p=options.topp,
        max_tokens=options.max,
        seed=options.seed,
    )
    lm = llama_onnx.load(options.onnx_dir, poolsize=options.poolsize, progress=show_progress)
    print_stream(lm.stream_generate(lm.format(options.prompt, options.template), params))
    print_stats(lm)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='examples: python demo.py "bonjour"  |  python demo.py models/alpaca "Write a poem" --poolsize 2',
    )
    parser.add_argument(
        "onnx_dir", metavar="ONNX_DIR", nargs="?", default=EMBEDDED_MODEL,
        help="model directory made by tools/export_onnx.py (default: the small model that comes along)",
    )  # fmt: skip
    parser.add_argument("prompt", metavar="PROMPT", help="an instruction, or text to continue")
    parser.add_argument("--template", choices=CHOICES, default="auto", help=TEMPLATE_HELP)
    parser.add_argument("--poolsize", metavar="SIZE", help=POOLSIZE_HELP)
    sampling = parser.add_argument_group("sampling")
    for name, kind, default, text in (
        ("--temperature", float, DEFAULTS.temperature, "0 = always the most likely token"),
        ("--topk", int, DEFAULTS.top_k, "sample from this many tokens; 0 = all"),
        ("--topp", float, DEFAULTS.top_p, "sample from the fewest tokens that reach this probability together"),
        ("--max", int, DEFAULTS.max_tokens, "the most tokens to generate"),
    ):
        sampling.add_argument(name, type=kind, default=default, help=f"{text} (default: %(default)s)")
    sampling.add_argument("--seed", type=int, help="same seed, same text (default: a new one each time)")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    sys.exit(main())
