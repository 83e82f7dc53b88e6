#!/usr/bin/env python3
"""The quant table: bits and error of each matrix, as CSV, and a plot of it."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llama_onnx.cli import guard
from llama_onnx.errors import MissingDependencyError, RequestError

FILE = "quant_table.csv"


@dataclass(frozen=True)
class Row:
    """One matrix.

    Attributes:
        layer: its number, '' outside of the layers.
        tensor: its name there.
        bits, block_size: how it is stored; 16 bits are float16.
        error: squared error over squared size, of its products on the calibration text or of its weights.
        of: 'products' or 'weights'.
    """

    layer: str
    tensor: str
    bits: int
    block_size: int
    error: float
    of: str


def write_table(rows: Sequence[Row]) -> bytes:
    """Return the table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in fields(Row)])
    for row in rows:
        writer.writerow([f"{value:.4g}" if isinstance(value, float) else value for value in astuple(row)])
    return text.getvalue().encode()


def read_table(path: Path) -> list[Row]:
    """Read a table.

    Raises:
        RequestError: it is not one.
    """
    try:
        rows = [
            Row(r["layer"], r["tensor"], int(r["bits"]), int(r["block_size"]), float(r["error"]), r["of"])
            for r in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: cannot be read as a quant table ({type(error).__name__}: {error})") from None
    if not rows:
        raise RequestError(f"{path}: is an empty table")
    return rows


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw error over layer, one line for each kind of matrix, its size standing for the bits.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RequestError: the picture cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError("plots need matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    inside = [row for row in rows if row.layer != ""]
    layers = 1 + max((int(row.layer) for row in inside), default=0)
    for tensor in dict.fromkeys(row.tensor for row in rows):
        its = [row for row in rows if row.tensor == tensor]
        places = [int(row.layer) if row.layer else layers for row in its]
        (line,) = axes.plot(places, [row.error for row in its], linewidth=1, label=tensor)
        axes.scatter(places, [row.error for row in its], [6 * row.bits for row in its], color=line.get_color())
    axes.set_yscale("log")
    axes.set_xlabel("layer (size of a dot: bits)")
    axes.set_ylabel("relative squared error")
    axes.legend(fontsize="small", ncols=2)
    figure.tight_layout()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: the plot cannot be written ({error})") from None
    finally:
        pyplot.close(figure)


def main() -> int:
    """Parse the command line and plot."""
    parser = argparse.ArgumentParser(
        description="Plot the quant table that tools/quantize.py leaves in a model directory.",
        epilog="example: python tools/quant_table.py models/alpaca-int4 alpaca-int4.png",
    )
    parser.add_argument("table", metavar="TABLE", type=Path, help="quant_table.csv, or the model directory it is in")
    parser.add_argument("picture", metavar="PICTURE", type=Path, help="file to write: .png, .svg or .pdf")
    options = parser.parse_args()
    table = options.table / FILE if options.table.is_dir() else options.table
    return guard(lambda: plot(read_table(table), options.picture))


if __name__ == "__main__":
    sys.exit(main())
