"""Progress bars and reports on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from .packages import tqdm

Item = TypeVar("Item")


def progress(items: Sequence[Item], title: str) -> Iterable[Item]:
    """Iterate with a progress bar, which is shown only if stderr is a terminal."""
    bar: Iterator[Item] = tqdm.tqdm(items, desc=title, unit="shard", disable=None)
    return bar


def report(text: str) -> None:
    """Print a line without disturbing the progress bar."""
    tqdm.tqdm.write(text, file=sys.stderr)
