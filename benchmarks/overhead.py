#!/usr/bin/env python3
"""The overhead of the loop: the part of a decode step in which ONNX Runtime does not compute.

    python benchmarks/overhead.py models/demo models/tinyllama-int4

Text is generated as for a user: streamed, sampled (top-k 40, top-p 0.95) and detokenized. Every run of a session is
timed; the rest of the step is overhead. Figures are medians over the steps. In a second run, ONNX Runtime's profiler
measures the time of the matrix products, which is a lower bound for the time of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from report import about, save, table

import llama_onnx
from llama_onnx import session

PROMPT = "Once upon a time there was a dog"
PRODUCTS = ("MatMulNBits", "MatMul", "FusedMatMul", "Gemm")


class Timed:
    """An ONNX Runtime session that adds up the time of its runs, over all sessions."""

    seconds = 0.0

    def __init__(self, session: Any) -> None:
        self._run = session.run_with_iobinding
        self._session = session

    def run_with_iobinding(self, binding: Any) -> None:
        """Run, and add the time to `Timed.seconds`."""
        began = time.perf_counter()
        self._run(binding)
        Timed.seconds += time.perf_counter() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@contextlib.contextmanager
def sessions_made_by(make: Callable[..., Any]) -> Iterator[None]:
    """Make all ONNX Runtime sessions with `make(load, path, options, …)` instead of `load(path, options, …)`."""
    load = session.open_session
    session.open_session = partial(make, load)
    try:
        yield
    finally:
        session.open_session = load


def measure(directory: Path, new: int, threads: int | None) -> dict[str, Any]:
    """Return the median seconds of a step, and of the overhead in it, for one model."""
    with sessions_made_by(lambda load, *what: Timed(load(*what))):
        lm = llama_onnx.load(directory, threads=threads)
        params = llama_onnx.SamplingParams(temperature=1.0, top_k=40, top_p=0.95, max_tokens=new, seed=1)
        steps: list[float] = []
        loops: list[float] = []
        while len(steps) < new:
            began, Timed.seconds = time.perf_counter(), 0.0
            for place, _ in enumerate(lm.stream_generate(PROMPT, params)):
                now = time.perf_counter()
                if place > 1:  # skip the prompt's pass, and the step that makes the bindings
                    steps.append(now - began)
                    loops.append(now - began - Timed.seconds)
                began, Timed.seconds = now, 0.0
    step, loop = float(np.median(steps)), float(np.median(loops))
    layers = lm.config.num_layers
    return {
        "model": directory.name,
        "layers": layers,
        "steps": len(steps),
        "step_seconds": step,
        "loop_seconds": loop,
        "share": loop / step,
        "per_layer": loop / layers,
    }


def products(directory: Path, new: int, threads: int | None) -> float:
    """Return the seconds that the matrix products of one step take: the sum of the medians of all nodes."""
    made: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:

        def profiled(load: Callable[..., Any], path: Path, options: Any, *more: Any) -> Any:
            options.enable_profiling = True
            options.profile_file_prefix = f"{folder}/{len(made)}"
            made.append(load(path, options, *more))
            return made[-1]

        with sessions_made_by(profiled):
            lm = llama_onnx.load(directory, threads=threads)
            lm.generate(PROMPT, llama_onnx.SamplingParams(temperature=0, max_tokens=new))
        files = [one.end_profiling() for one in made]
        return 1e-6 * sum(median for file in files for median in _medians(Path(file)))


def _medians(profile: Path) -> Iterator[float]:
    runs: dict[str, list[float]] = defaultdict(list)
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["args"].get("op_name") in PRODUCTS and "_kernel_time" in event["name"]:
            runs[event["name"]].append(event["dur"])
    for durations in runs.values():
        yield float(np.median(durations[2:]))  # without the prompt's pass and the first step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("-n", "--new", type=int, default=100, metavar="N", help="steps (default: %(default)s)")
    parser.add_argument("-t", "--threads", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    rows = [
        {
            **measure(directory, options.new, options.threads),
            "products_seconds": products(directory, options.new, options.threads),
        }
        for directory in options.models
    ]
    print(
        table(
            ("model", "layers", "step", "products", "loop", "share", "per layer"),
            [
                (
                    row["model"],
                    row["layers"],
                    f"{1e3 * row['step_seconds']:.2f} ms",
                    f"{1e3 * row['products_seconds']:.2f} ms",
                    f"{1e6 * row['loop_seconds']:.0f} µs",
                    f"{100 * row['share']:.1f} %",
                    f"{1e6 * row['per_layer']:.1f} µs",
                )
                for row in rows
            ],
        )
    )
    save(options.json, {"about": about(), "models": rows})


if __name__ == "__main__":
    main()
