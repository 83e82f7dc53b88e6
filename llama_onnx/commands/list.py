"""List the models in the cache: name, precision, size, when each was last used. Give the name to any verb."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime

from ..memory import format_size
from ..store.cache import Cache, CachedModel

EXAMPLES = "example: %(prog)s --json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--json", action="store_true", help="print a list in JSON, with the directory of each model")


def run(options: argparse.Namespace) -> None:
    """Print the models that are whole. What interrupted exports left is told on stderr."""
    cache = Cache()
    models = cache.all()
    if options.json:
        print(json.dumps([_fields(model) for model in models], indent=1, ensure_ascii=False))
    elif models:
        print("\n".join(_table(models)))
    else:
        print(f"no models in {cache.models}; get one with llama-onnx pull", file=sys.stderr)
    whole = {(model.key, model.precision) for model in models}
    for left in cache.unfinished():
        name = f"{left.key}:{left.precision}"
        if (left.key, left.precision) in whole:
            state, end = "unfinished, a newer version of a model above", "continues it"
        else:
            state, end = "unfinished, no model yet", f"continues it, llama-onnx rm {name} removes it"
        print(f"{state}: {name}, {format_size(left.bytes)}; the same command again {end}", file=sys.stderr)


def _fields(model: CachedModel) -> dict[str, object]:
    return {
        "name": model.name, "precision": model.precision, "bytes": model.bytes, "used": _time(model.used),
        "directory": str(model.directory), "source": model.source,
    }  # fmt: skip


def _table(models: list[CachedModel]) -> list[str]:
    rows = [("name", "precision", "size", "last used", "made from")]
    for model in models:
        origin = str(model.source.get("path") or f"hub, {str(model.source.get('commit'))[:8]}")
        rows.append((model.name, model.precision, format_size(model.bytes), _time(model.used), origin))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]) for row in rows]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "minutes")
