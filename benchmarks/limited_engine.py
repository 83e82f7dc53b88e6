"""Engines that run in limited memory, with a cold page cache."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import limits
from engine import Engine, random_prompt
from random_checkpoint import SHAPES

GIB = 1 << 30


@contextlib.contextmanager
def engine(memory: float | None, ctx: int, **description: Any) -> Iterator[tuple[Engine, limits.Limit | None]]:
    """Start an engine in `memory` GiB, with a cold page cache."""
    limits.drop_caches()
    threads = os.cpu_count()
    with contextlib.ExitStack() as stack:
        limit = None
        if memory and limits.possible():
            limit = stack.enter_context(limits.limited(int(memory * GIB)))
        started = Engine(limit.prefix if limit else (), threads=threads, ctx=ctx, **description)
        yield stack.enter_context(started), limit


def ours(path: Path, memory: float, **more: Any) -> dict[str, Any]:
    """Return the description of an engine of this project with a pool of `memory` GiB."""
    return {"engine": "ours", "path": str(path), "poolsize": f"{int(memory * 1024)}MB", **more}


def prompt_of(options: argparse.Namespace) -> list[int]:
    """Return a random prompt of the length given in the options."""
    return random_prompt(options.prompt, SHAPES[options.shape][-1])


def seconds_per_token(answer: dict[str, Any]) -> float:
    """Return the seconds of each token after the first."""
    return float(answer["new_seconds"] / (answer["new"] - 1))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
