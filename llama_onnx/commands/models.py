"""Models by name for all verbs: the store, and the exporter that it is given."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..config import ModelConfig
from ..errors import ModelDirectoryError
from ..memory import format_size, parse_size, process_bytes
from ..session import WARM_UP_BYTES
from ..store.models import ModelStore
from ..streaming.available import available_bytes
from ..streaming.promise import AUTOMATIC_SHARE, SMALLEST
from .terminal import draw_share, wipe_bar

BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.1, "int4": 0.85}  # of a weight in memory, scale and all
NAME_HELP = (
    "a model directory, a .gguf file, a Hugging Face directory, or organisation/name[/file.gguf][@revision] on the "
    "Hugging Face hub. All but the first are exported once and kept in the cache; :int8 after the name asks for a "
    "precision"
)


def default_precision(quantised: bool) -> str:
    """Return the precision for a source where none is asked for. The memory that is free now has no say in it."""
    return "auto" if quantised else "int4"


def add_offline(parser: argparse._ActionsContainer) -> None:
    """Add `--offline`."""
    parser.add_argument(
        "--offline", action="store_true", help="never connect: use what is in the cache (as HF_HUB_OFFLINE=1)"
    )


def open_store(options: argparse.Namespace) -> ModelStore:
    """Return the store of models, which reports on stderr."""
    return ModelStore(_check_tools, _prepare, _choose, _report, DownloadBar().show, options.offline)


class DownloadBar:
    """Shows how much of a file has arrived, how fast it comes, and how long the rest will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a clock, which returns seconds."""
        self._clock = clock
        self._file = ""
        self._start = (0.0, 0)

    def show(self, file: str, done: int, total: int) -> None:
        """Show the bar if stderr is a terminal; wipe it at the end."""
        now = self._clock()
        if file != self._file or done < self._start[1]:
            self._file, self._start = file, (now, done)
        seconds, bytes_ = now - self._start[0], done - self._start[1]
        rate = bytes_ / seconds if seconds > 0 else 0.0
        speed = f", {format_size(rate)}/s, {_duration((total - done) / rate)} left" if rate else ""
        draw_share(done / total, f"{file}, {format_size(done)} of {format_size(total)}{speed}")
        if done >= total:
            wipe_bar()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _report(line: str) -> None:
    wipe_bar()
    print(line, file=sys.stderr)


def smaller_that_fits(config: ModelConfig, poolsize: str | None) -> str | None:
    """Return the best smaller precision of a model with which a poolsize is enough, or None. It is an estimate."""
    weights = "int8" if config.weights == "auto" else config.weights  # of 4 to 8 bits
    if poolsize == SMALLEST or weights not in BYTES:
        return None
    fixed = process_bytes() + WARM_UP_BYTES
    total = parse_size(poolsize) if poolsize else fixed + int(AUTOMATIC_SHARE * available_bytes())
    matrices = max(shard.loaded_bytes for shard in (*config.layers, config.head)) / BYTES[weights]
    for precision in list(BYTES)[list(BYTES).index(weights) + 1 :]:
        if fixed + 2 * matrices * BYTES[precision] <= total:  # while it is loaded, a shard is there twice
            return precision
    return None


def _check_tools() -> None:
    """Raise MissingDependencyError where the packages of an export are missing, before anything is downloaded."""
    from ..export import packages  # noqa: F401


def _choose(source: Path) -> str:
    from ..export.readers.open import open_checkpoint
    from ..export.shards import is_quantized

    return default_precision(is_quantized(open_checkpoint(source)))


def _prepare(source: Path, out: Path, precision: str) -> None:
    from ..export.exporter import export

    if not out.with_name(f"{out.name}.partial").exists():  # the exporter knows what is still to be written
        _check_room(source, out, precision)
    export(source, out, precision)


def _check_room(source: Path, out: Path, precision: str) -> None:
    """Raise ModelDirectoryError if the disk has no room for a model, and say in which precision it would."""
    from ..export.families.registry import read_spec
    from ..export.graphs.weights import least_bytes
    from ..export.readers.open import open_checkpoint

    checkpoint = open_checkpoint(source)
    spec = read_spec(checkpoint.config)
    sizes = {name: least_bytes(spec, name) for name in BYTES}
    sizes["auto"] = sum(path.stat().st_size for path in checkpoint.source)
    free = shutil.disk_usage(out.parent).free
    if precision not in sizes or sizes[precision] <= free:
        return
    fitting = [name for name in BYTES if sizes[name] <= free]
    advice = f"{fitting[0]} would fit: --dtype {fitting[0]}" if fitting else "no precision would fit; free some space"
    raise ModelDirectoryError(
        f"{out.parent}: the model needs {format_size(sizes[precision])} as {precision}, but {format_size(free)} are "
        f"free there; {advice}, or name another folder with LLAMA_ONNX_CACHE"
    )
