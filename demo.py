#!/usr/bin/env python3
"""The demo: load a model, answer a prompt, print the text as it comes."""

import argparse
import os
import sys
from pathlib import Path

import llama_onnx

FIGURES = """[ prompt {prompt_tokens} tokens, {prompt_tokens_per_second:.1f} tok/s | generation {new_tokens} tokens, \
{tokens_per_second:.1f} tok/s | pool {pool[hits]} hits, {pool[misses]} misses, {pool[evictions]} evictions, \
{loaded} MB loaded | peak memory {peak} MB ]"""


def answer(args: argparse.Namespace) -> None:
    asked = {"max_tokens": args.max, "seed": args.seed, "prompt_lookup": 0}  # the loop alone, without guesses
    params = llama_onnx.SamplingParams(args.temperature, args.topk, args.topp, **asked)
    with llama_onnx.load(args.onnx_dir, poolsize=args.poolsize, progress=show_progress) as lm:
        for step in lm.stream_generate(lm.format(args.prompt, args.template), params):
            print(step.text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding), end="", flush=True)
        print(flush=True)
        stats = lm.stats()
    loaded, peak = stats["pool"]["loaded_bytes"] >> 20, stats["peak_memory"] >> 20
    print(FIGURES.format(**stats, loaded=loaded, peak=peak), file=sys.stderr)


def show_progress(doing: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K" + f"{doing}, {done} of {total}" * (done < total), end="", file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    default, model = llama_onnx.SamplingParams(), Path(__file__).resolve().parent / "models" / "demo"
    parser = argparse.ArgumentParser(description=__doc__, epilog='example: python demo.py models/alpaca "Sing a song"')
    add = parser.add_argument
    add("onnx_dir", nargs="?", default=model, metavar="ONNX_DIR", help="model directory (default: models/demo)")
    add("prompt", metavar="PROMPT", help="an instruction, or text to continue")
    add("--template", choices=("auto", "plain", "alpaca", "chat"), default="auto", help="default: as it was trained")
    add("--poolsize", metavar="SIZE", help="memory in GiB, '512MB' or 'min' (default: 80%% of what is available)")
    add("--temperature", type=float, default=default.temperature, help="0 = most likely token (default: %(default)s)")
    add("--topk", "--top-k", type=int, default=default.top_k, help="of the K likeliest (default: %(default)s)")
    add("--topp", "--top-p", type=float, default=default.top_p, help="of the likeliest P (default: %(default)s)")
    add("--max", "--max-tokens", type=int, default=default.max_tokens, help="at most so many (default: %(default)s)")
    add("--seed", type=int, help="same seed, same text (default: a new seed)")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    try:
        answer(parse_arguments())
    except llama_onnx.LlamaOnnxError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:  # the reader of our output has gone, which is no error, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(None if isinstance(error, BrokenPipeError) else f"error: {error}")
