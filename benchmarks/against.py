#!/usr/bin/env python3
"""Is this tree slower than another one? The ratio of their CPU time per token, with its 95 % interval.

    git worktree add ../before COMMIT
    python benchmarks/against.py ../before models/demo models/tinyllama-int4

Each pair of runs is two processes, one for each tree; who begins takes turns. CPU time varies less than wall time, and
what slows the machine for a while slows both runs of a pair. Measure with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import about, save, table

ROOT = Path(__file__).resolve().parent.parent
NORMAL = 1.959964  # 97.5 % of a normal distribution are below
RUN = """
import json, sys, time
tree, model, new, rounds, lookup, threads = *sys.argv[1:3], *map(int, sys.argv[3:])
sys.path.insert(0, tree)
import llama_onnx
lm = llama_onnx.load(model, threads=threads or None)

def run(tokens, seed):
    params = llama_onnx.SamplingParams(
        temperature=1.0, top_k=40, top_p=0.95, max_tokens=tokens, seed=seed, prompt_lookup=lookup
    )
    steps = lm.stream_generate("Once upon a time there was a dog", params)
    next(steps)  # the prompt's pass is not counted
    began = time.process_time()
    count = sum(1 for _ in steps)
    return time.process_time() - began, count

run(20, 0)
seconds, counts = zip(*(run(new, 1 + i) for i in range(rounds)))
print(json.dumps(sum(seconds) / sum(counts)))
"""


def seconds_per_token(tree: Path, model: Path, options: argparse.Namespace) -> float:
    """Return the CPU seconds per token that `tree` takes, in a process of its own."""
    numbers = map(str, (options.new, options.rounds, options.prompt_lookup, options.threads or 0))
    command = [sys.executable, "-c", RUN, str(tree), str(model), *numbers]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios and its 95 % interval, by Student's t distribution."""
    logs, free, z = [math.log(ratio) for ratio in ratios], len(ratios) - 1, NORMAL
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)  # Abramowitz and Stegun 26.7.5
    mean, error = statistics.mean(logs), t * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - error), math.exp(mean + error)


def measure(before: Path, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the ratio for one model, and the medians of both trees."""
    found: dict[Path, list[float]] = {before: [], ROOT: []}
    for i in range(options.pairs):
        for tree in (before, ROOT) if i % 2 == 0 else (ROOT, before):
            found[tree].append(seconds_per_token(tree, model, options))
    ratios = [new / old for old, new in zip(found[before], found[ROOT], strict=True)]
    names = ("ratio", "low", "high")
    medians = {"before": statistics.median(found[before]), "now": statistics.median(found[ROOT])}
    return {"model": model.name, "pairs": options.pairs, **medians, **dict(zip(names, interval(ratios), strict=True))}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="TREE", help="a checkout of the other commit")
    parser.add_argument("models", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("-n", "--new", type=int, default=300, metavar="N", help="tokens (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="texts in a run (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=15, metavar="N", help="at least 5 (default: %(default)s)")
    parser.add_argument("--prompt-lookup", type=int, default=8, metavar="N", help="0: none (default: %(default)s)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="1 avoids the CPU time of threads that wait")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    rows = [measure(options.before.resolve(), model, options) for model in options.models]
    print(
        table(
            ("model", "before", "now", "ratio", "95 % interval"),
            [
                (
                    row["model"],
                    *(f"{1e3 * row[tree]:.2f} ms" for tree in ("before", "now")),
                    f"{row['ratio']:.3f}",
                    f"{row['low']:.3f} to {row['high']:.3f}",
                )
                for row in rows
            ],
        )
    )
    save(options.json, {"about": about(), "models": rows})


if __name__ == "__main__":
    main()
