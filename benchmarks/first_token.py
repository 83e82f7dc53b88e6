#!/usr/bin/env python3
"""Seconds from starting the demo to the first text it prints, and to the end of the answer.

    python benchmarks/first_token.py [--runs 7] [--json FILE]

The demo runs in its own process, as a user starts it. After the first run, its files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

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
        "command": "python " + " ".join(COMMAND),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"onnxruntime {onnxruntime.__version__}",
        "runs": options.runs,
        "first_text_seconds": {"median": float(np.median(times[:, 0])), "max": float(times[:, 0].max())},
        "whole_answer_seconds": {"median": float(np.median(times[:, 1])), "max": float(times[:, 1].max())},
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
