#!/usr/bin/env python3
"""Speed beside other busy processes: threads that spin while they wait, threads that do not, and a single thread.

    python benchmarks/busy.py DIR

The runtime looks how busy the machine is when it loads a model. So the side that spins is loaded while nobody else
works, and the one that does not beside a busy process. The sides take turns, each in its own process; figures are
medians of tokens per second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from engine import Engine, random_prompt
from report import about, save, table

from llama_onnx.model_directory import read_config

PROMPT, NEW = 16, 33
SIDES = ("spinning", "not spinning", "one thread")


@contextmanager
def others(count: int) -> Iterator[None]:
    """Keep so many processes busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(path: Path, busy: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Return the median speed of each side beside each number of busy processes."""
    prompt = random_prompt(PROMPT, read_config(path).vocab_size)
    figures: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:

        def load(threads: int) -> Engine:
            return stack.enter_context(Engine(engine="ours", path=str(path), threads=threads, ctx=PROMPT + NEW + 8))

        engines = {"spinning": load(2), "one thread": load(1)}
        with others(1):
            engines["not spinning"] = load(2)
        for count in busy:
            found: dict[str, list[float]] = {name: [] for name in SIDES}
            with others(count):
                for number in range(rounds + 1):
                    for name in SIDES[:: 1 if number % 2 else -1]:
                        answer = engines[name].ask(prompt=prompt, new=NEW)
                        if number:  # the first round warms up
                            found[name].append((answer["new"] - 1) / answer["new_seconds"])
            figures[str(count)] = {name: float(np.median(rates)) for name, rates in found.items()}
    return figures


def main() -> None:
    """Measure, print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="DIR", help="model directory")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of busy processes")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = measure(args.model, args.busy, args.rounds)
    rows = [(count, *(f"{rates[name]:.1f}" for name in SIDES)) for count, rates in figures.items()]
    print(table(("busy processes", *SIDES), rows))
    save(args.json, {"about": about(), "tokens_per_second": figures})


if __name__ == "__main__":
    main()
