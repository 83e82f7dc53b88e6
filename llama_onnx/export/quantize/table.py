"""The quant table: bits and error of each matrix, as CSV and as a plot."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np

from ...errors import MissingDependencyError, RequestError

FILE = "quant_table.csv"
PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Row:
    """One matrix.

    Attributes:
        layer: the number of its layer, '' if it belongs to none.
        tensor: its name within the layer.
        bits, block_size: how it is stored; 16 bits are float16.
        error: relative squared error of its products on the calibration text, or of its weights.
        of: 'products' or 'weights', whichever `error` is for.
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
        RequestError: the file is not a quant table.
    """
    try:
        rows = [
            Row(r["layer"], r["tensor"], int(r["bits"]), int(r["block_size"]), float(r["error"]), r["of"])
            for r in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: cannot be read as a quant table ({type(error).__name__}: {error})") from None
    if not rows:
        raise RequestError(f"{path}: the table is empty")
    return rows


def check_plot(path: Path) -> None:
    """Raise the errors of `plot` that can be found before there are rows."""
    if path.suffix.lower() not in PICTURES:
        raise RequestError(f"{path}: a plot is a .png, .svg or .pdf file; give such a name")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("plots need matplotlib: pip install matplotlib")
    if not path.parent.is_dir():
        raise RequestError(f"{path}: the plot cannot be written (no such folder)")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw a grid with a row for each kind of matrix and a column for each layer.

    The colour of a cell is the error, the number in it the bits. A matrix outside the layers takes a whole row.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RequestError: the image file cannot be written, or its name has another ending than `PICTURES`.
    """
    check_plot(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    tensors = list(dict.fromkeys(row.tensor for row in rows))
    layers = 1 + max((int(row.layer) for row in rows if row.layer), default=0)
    errors = [row.error for row in rows if row.error] or [1e-3]
    norm = LogNorm(min(errors) / 1.1, max(errors) * 1.1)
    colours = pyplot.get_cmap("viridis_r")
    size = (2.6 + 0.34 * max(layers, 12), 1.4 + 0.34 * len(tensors))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    for row in rows:
        column, width = (int(row.layer), 1) if row.layer else (0, layers)
        line = tensors.index(row.tensor)
        depth = float(norm(row.error)) if row.error else None  # floats have no error
        colour = "#dddddd" if depth is None else colours(depth)
        axes.add_patch(Rectangle((column, line), width, 1, facecolor=colour, edgecolor="white"))
        axes.text(
            column + width / 2, line + 0.5, str(row.bits), ha="center", va="center", fontsize=8,
            color="white" if depth and depth > 0.45 else "black",
        )  # fmt: skip
    axes.set(xlim=(0, layers), ylim=(len(tensors), 0))
    axes.set_yticks(np.arange(len(tensors)) + 0.5, tensors)
    axes.set_xticks(np.arange(layers) + 0.5, [str(i) for i in range(layers)], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer")
    axes.set_title("bits of each matrix, coloured by its error", loc="left", fontsize=11)
    of = sorted({row.of for row in rows if row.error})
    figure.colorbar(
        ScalarMappable(norm, colours), ax=axes, label=f"squared error of {' or '.join(of)}, relative", pad=0.02
    )
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: the plot cannot be written ({error})") from None
    finally:
        pyplot.close(figure)
