"""Prepare a quantised model for streaming, ahead of time.

The layers are written to disk as ONNX Runtime packs them for this CPU, so that loading a layer is a single read.
Otherwise, the first run that streams the model does this.
"""

from __future__ import annotations

import argparse
import sys

from ..model_directory import read_config
from ..streaming.images import Images
from .options import add_model, model_directory
from .terminal import show_progress

EXAMPLES = "example: %(prog)s models/alpaca-int4"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_model(parser)


def run(options: argparse.Namespace) -> None:
    """Pack the layers that are not packed yet."""
    config = read_config(model_directory(options))
    if not any(shard.quantized for shard in config.layers):
        print("nothing to pack: the layers are not quantised", file=sys.stderr)
        return
    Images(config).make_all(config.layers, show_progress)
