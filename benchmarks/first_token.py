#!/usr/bin/env python3
"""Seconds from starting the demo to the first text it prints, and to the end of the answer.

    python benchmarks/first_token.py [--runs 7] [--json FILE]

The demo runs in its own process, as a user starts it. After the first run, its files are in the page cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from report import about, save, table

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ["demo.py", "bonjour", "--seed", "1"]


def run() -> tuple[float, float]:
    """Run the demo once. Return (seconds to the first byte of text, seconds to the end)."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *COMMAND], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        first = time.perf_counter() - started
        process.stdout.read()
        process.wait()
    return first, time.perf_counter() - started


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    run()
    times = np.array([run() for _ in range(options.runs)])
    figures = {
        name: {"median": float(np.median(seconds)), "max": float(seconds.max())}
        for name, seconds in zip(("first_text_seconds", "whole_answer_seconds"), times.T, strict=True)
    }
    rows = [(name, f"{f['median']:.3f}", f"{f['max']:.3f}") for name, f in figures.items()]
    print(table((f"python {' '.join(COMMAND)}", "median", "max"), rows))
    save(options.json, {"about": about(), "runs": options.runs, **figures})


if __name__ == "__main__":
    main()
