"""Remove a model from the cache, in one precision or in all. Downloads of the hub and your own files stay."""

from __future__ import annotations

import argparse
import sys

from ..errors import RequestError
from ..memory import format_size
from .models import open_store

EXAMPLES = """examples:
  %(prog)s HuggingFaceTB/SmolLM2-135M-Instruct
  %(prog)s HuggingFaceTB/SmolLM2-135M-Instruct:int8 --yes
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "model", metavar="NAME[:PRECISION]", help="a name that `list` shows, or what the model was made from"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(offline=True)


def run(options: argparse.Namespace) -> None:
    """Ask, and remove the model."""
    store = open_store(options)
    key, precision = store.entry(options.model)
    found = [(model.precision, model.bytes) for model in store.cache.all() if model.key == key]
    found += [(left.precision, left.bytes) for left in store.cache.unfinished(key)]
    found = [(name, size) for name, size in found if precision in (None, name)]
    what = ", ".join(f"{name} ({format_size(size)})" for name, size in found)
    if not options.yes:
        if not sys.stdin.isatty():
            raise RequestError(f"{options.model}: {what} would be removed; give --yes to do it")
        print(
            f"remove {options.model}: {what} from {store.cache.models / key}? [y/N] ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RequestError("nothing was removed")
    store.cache.remove(key, precision)
    print(f"removed {what}", file=sys.stderr)
