"""Get a model ready to run: download it, export it, and keep it in the cache. Print its directory.

It is asked for by the same name afterwards: `generate MODEL`, or with any other verb. A model from the hub is made
anew if the hub has a newer one. Needs the packages of the extra 'tools', and of 'hub' to download.
"""

from __future__ import annotations

import argparse

from ..memory import format_size
from ..store.names import PRECISIONS
from .models import NAME_HELP, add_offline, open_store

EXAMPLES = """examples:
  %(prog)s HuggingFaceTB/SmolLM2-135M-Instruct
  %(prog)s model.gguf --dtype int8
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("model", metavar="MODEL", help=NAME_HELP)
    parser.add_argument(
        "--dtype", choices=PRECISIONS,
        help="how the matrices are stored (default: int4; auto, which keeps what it has, for a quantised source)",
    )  # fmt: skip
    add_offline(parser)


def run(options: argparse.Namespace) -> None:
    """Make the model, or find it in the cache, and print where it is."""
    store = open_store(options)
    model = store.pull(options.model, options.dtype)
    store.report(f"{model.name} as {model.precision} takes {format_size(model.bytes)}")
    print(model.directory)
