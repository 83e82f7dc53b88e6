"""What tools say while they work: a progress bar and reports, both on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Sequence[Item], title: str) -> Iterable[Item]:
    """Iterate with a progress bar; none when stderr is not a terminal."""
    bar: Iterator[Item] = tqdm(items, desc=title, unit="shard", disable=None)
    return bar


def report(text: str) -> None:
    """Print a line without disturbing the progress bar."""
    import sys

    tqdm.write(text, file=sys.stderr)
