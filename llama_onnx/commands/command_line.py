"""`llama-onnx VERB …`, or `python -m llama_onnx VERB …`. Only the module of the given verb is imported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from .terminal import HelpFormatter, guard

VERBS = {
    "generate": "continue a prompt, or a file of prompts",
    "bench": "measure a model's speed on this machine",
    "perplexity": "measure how well a model predicts a text",
    "eval": "answer multiple choice questions",
    "inspect": "show the contents of a model directory, and check its files",
    "pack": "prepare a quantised model for streaming, ahead of time",
    "pull": "download and export a model into the cache",
    "list": "list the models in the cache",
    "rm": "remove a model from the cache",
    "export": "turn a checkpoint into a model directory",
    "convert": "convert an fp32 model directory to fp16",
    "quantize": "quantise a checkpoint or a model directory to 2, 4 or 8 bits",
    "compare": "compare model directories with a reference, layer by layer",
}
USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 success, 1 an error, 2 wrong usage, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return guard(lambda: _run(given))


def _run(given: list[str]) -> int:
    parser = _parser(next((word for word in given if not word.startswith("-")), None))
    if not given:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    options = parser.parse_args(given)
    options.run(options)
    return 0


def _parser(wanted: str | None) -> argparse.ArgumentParser:
    """Return the parser of all verbs; only the `wanted` verb gets its options."""
    parser = argparse.ArgumentParser(
        prog="llama-onnx",
        description="Run a Llama-family model of any size in any amount of memory, one ONNX shard per layer.",
        epilog="examples:\n"
        "  llama-onnx generate -p bonjour                    # with the small model that comes with llama_onnx\n"
        "  llama-onnx generate model.gguf -p bonjour         # your own; also a Hugging Face directory, or org/name\n"
        "  llama-onnx export HF_DIR models/mine              # with control over everything\n"
        "  llama-onnx generate models/mine -p bonjour --poolsize 2\n\n"
        "llama-onnx VERB --help shows the options of a verb.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llama_onnx {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, formatter_class=HelpFormatter)
        if name == wanted:
            module = import_module(f".{name}", __package__)
            verb.description, verb.epilog = module.__doc__, module.EXAMPLES
            module.add_options(verb)
            verb.set_defaults(run=module.run)
    return parser
