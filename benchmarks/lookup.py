"""The speedup of prompt lookup; run it with `python benchmarks/low_memory.py lookup`."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import subjects
from limited_engine import engine, ours, prompt_of, say, seconds_per_token
from peer_models import installed
from random_checkpoint import CYCLE_START
from report import table

CYCLE = 48  # tokens after which the text of a model with a cycle repeats


def lookup(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare speed with and without prompt lookup, and with llama.cpp, for text that repeats its input and new text.

    The model for repeated text does the same work as any model of its shape, but its weights are chosen so that greedy
    text goes round a cycle of tokens. With a prompt that contains the cycle, the text repeats its input. With every
    tenth token of that prompt replaced, it is like an edit.
    """
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(1)
    for text, cycle in (("repeats", CYCLE), ("edits", CYCLE), ("is new", None)):
        source = subjects.checkpoint(work, options.shape, cycle)
        path = subjects.model_directory(work, source, "int4")
        prompt = prompt_of(options)
        if cycle:
            prompt = [CYCLE_START + i % cycle for i in range(2 * cycle)]
            if text == "edits":
                for place in range(5, len(prompt) - 8, 10):
                    prompt[place] = int(rng.integers(3000, 30000))
        with contextlib.ExitStack() as stack:
            description = ours(path, options.memory[0]) if options.memory else {"engine": "ours", "path": str(path)}
            memory = options.memory[0] if options.memory else None
            side, _ = stack.enter_context(engine(memory, options.ctx, **description))
            sides = {"without": (side, 0), "with": (side, 8)}
            if installed("llama_cpp") and options.peer:
                gguf = str(subjects.gguf(work, source, "Q4_0"))
                theirs = engine(memory, options.ctx, engine="llama.cpp", path=gguf, repack=memory is None)
                sides["llama.cpp Q4_0"] = (stack.enter_context(theirs)[0], 0)
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            tokens = {}
            for done in range(options.rounds + 1):
                for name, (one, max_draft) in sides.items():
                    new = options.new if name != "llama.cpp Q4_0" else min(options.new, 12)
                    answer = one.ask(prompt=prompt, new=new, lookup=max_draft)
                    tokens[name] = answer["tokens"]
                    if done or memory:
                        seconds[name].append(seconds_per_token(answer))
                        say(f"{text}, {name}: {seconds[name][-1]:.3f} s/token")
        if tokens["with"] != tokens["without"]:
            raise SystemExit("prompt lookup changed the text")
        medians = {name: float(np.median(times)) for name, times in seconds.items()}
        rows.append({"text": text, "memory": memory, "seconds_per_token": medians})
    names = list(medians)
    print(
        table(
            ("the text", *(f"{name}, s/token" for name in names), "speedup of lookup"),
            [
                (row["text"], *(f"{times[name]:.3f}" for name in names), f"{times['without'] / times['with']:.2f} x")
                for row in rows
                for times in [row["seconds_per_token"]]
            ],
        )
    )
    return {"rows": rows}
